// The sampling points of multi-scale deformable attention for cuda/sampling.cuh.

#pragma once

#include "../cuda/divider.h"
#include "../cuda/sampling.cuh"
#include "ms_deform_attn.h"

namespace flash_internimage::cuda {

/// A unit is one head of one query, numbered query * heads + head through the batch.
template <typename dtypes_t, typename index_t>
class Points<ms_deform_attn::Operator, dtypes_t, index_t> {
 public:
  using acc_t = typename dtypes_t::acc_t;
  using scalar_t = typename dtypes_t::points_t;

  explicit Points(const Call<ms_deform_attn::Operator>& call)
      : geometry_(call.geometry),
        locations_(static_cast<const scalar_t*>(call.points[0])),
        weights_(static_cast<const scalar_t*>(call.points[1])),
        grad_locations_(static_cast<scalar_t*>(call.grad_points[0])),
        grad_weights_(static_cast<scalar_t*>(call.grad_points[1])),
        cell_stride_(static_cast<index_t>(geometry_.channels())),
        heads_(geometry_.groups),
        queries_(static_cast<index_t>(geometry_.outputs)),
        level_points_(geometry_.points) {}

  struct Numbers {
    scalar_t x;
    scalar_t y;
    scalar_t weight;
  };

  class Unit {
   public:
    __device__ __forceinline__ Unit(const Points& points, index_t number)
        : points_(points) {
      const ms_deform_attn::Geometry& geometry = points.geometry_;
      const index_t query = points.heads_.quotient(number);
      const index_t head = number - query * geometry.groups;
      const index_t image = points.queries_.quotient(query);
      first_point_ = kept<index_t>(number * geometry.group_points);
      origin_ = kept<index_t>(
          image * static_cast<index_t>(geometry.input_cells) * points.cell_stride_ + head * geometry.group_channels);
      output_ = kept<index_t>(number * geometry.group_channels);
    }

    __device__ __forceinline__ index_t output() const {
      return output_;
    }

    __device__ __forceinline__ Numbers read(int32_t point) const {
      const index_t at = first_point_ + point;
      return {points_.locations_[2 * at], (points_.locations_ + 1)[2 * at], points_.weights_[at]};
    }

    __device__ __forceinline__ Located<acc_t, index_t> locate(int32_t point, const Numbers& numbers) const {
      const ms_deform_attn::Level& level = points_.geometry_.level[points_.level_points_.quotient(point)];
      return {
          flash_internimage::locate(
              ms_deform_attn::coordinate(static_cast<acc_t>(numbers.y), level.height),
              ms_deform_attn::coordinate(static_cast<acc_t>(numbers.x), level.width), level.height, level.width),
          static_cast<acc_t>(numbers.weight),
          {level.height, level.width, level.width * points_.cell_stride_, points_.cell_stride_},
          origin_ + static_cast<index_t>(level.start) * points_.cell_stride_};
    }

    __device__ __forceinline__ void write_gradient(int32_t point, acc_t y, acc_t x, acc_t modulation) const {
      const ms_deform_attn::Level& level = points_.geometry_.level[points_.level_points_.quotient(point)];
      const index_t at = first_point_ + point;
      if (points_.grad_locations_ != nullptr) {
        points_.grad_locations_[2 * at] = static_cast<scalar_t>(x * static_cast<acc_t>(level.width));
        points_.grad_locations_[2 * at + 1] = static_cast<scalar_t>(y * static_cast<acc_t>(level.height));
      }
      if (points_.grad_weights_ != nullptr) {
        points_.grad_weights_[at] = static_cast<scalar_t>(modulation);
      }
    }

    /// Every element belongs to a point.
    __device__ __forceinline__ void write_unused(int32_t, int32_t) const {}

   private:
    const Points& points_;
    index_t first_point_;
    index_t origin_; // of the image's first token
    index_t output_;
  };

 private:
  ms_deform_attn::Geometry geometry_;
  const scalar_t* locations_;
  const scalar_t* weights_;
  scalar_t* grad_locations_; // null in a forward, or where not needed
  scalar_t* grad_weights_;
  index_t cell_stride_;
  Divider<index_t> heads_;
  Divider<index_t> queries_; // of an image
  Divider<int32_t> level_points_;
};

} // namespace flash_internimage::cuda
