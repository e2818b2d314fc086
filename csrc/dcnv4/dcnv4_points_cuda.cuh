// The sampling points of DCNv4 for cuda/sampling.cuh.

#pragma once

#include "../cuda/divider.h"
#include "../cuda/sampling.cuh"
#include "dcnv4.h"

#include <algorithm>
#include <limits>

namespace flash_internimage::cuda {

/// A unit is one group of one output cell, its number strip order x groups + group. Strips are a few rows high and
/// numbered down their columns, so that the units of a block form a tile, whose windows overlap.
template <typename dtypes_t, typename index_t>
class Points<dcnv4::Operator, dtypes_t, index_t> {
 public:
  using acc_t = typename dtypes_t::acc_t;
  using offset_t = typename dtypes_t::points_t;

  explicit Points(const Call<dcnv4::Operator>& call)
      : geometry_(call.geometry),
        offset_mask_(static_cast<const offset_t*>(call.points[0])),
        grad_offset_mask_(static_cast<offset_t*>(call.grad_points[0])),
        offset_scale_(static_cast<acc_t>(geometry_.offset_scale)),
        row_stride_(static_cast<index_t>(geometry_.width.size * geometry_.channels())),
        groups_(geometry_.groups),
        outputs_(static_cast<index_t>(geometry_.outputs)),
        strip_(
            static_cast<index_t>(std::min<int64_t>(
                int64_t(kStripRows) * geometry_.width.output_size, std::numeric_limits<index_t>::max()))),
        strip_rows_{
            Divider<index_t>(kStripRows), Divider<index_t>((geometry_.height.output_size - 1) % kStripRows + 1)},
        window_rows_(geometry_.height.kernel_size),
        first_tap_(tap(geometry_, 0)),
        first_center_{window_center(geometry_.height, 0), window_center(geometry_.width, 0)},
        removed_point_(
            geometry_.remove_center ? geometry_.height.kernel_size * geometry_.width.kernel_size / 2
                                    : std::numeric_limits<int32_t>::max()) {
    for (int32_t point = 0; point < std::min(geometry_.group_points, dcnv4::Operator::kUsualPoints); ++point) {
      usual_taps_[point] = tap_of(point);
    }
  }

  /// A dcnv4::Tap, ready for arithmetic and read by one instruction.
  struct alignas(2 * sizeof(acc_t)) Tap {
    acc_t y;
    acc_t x;
  };

  struct Numbers {
    offset_t x;
    offset_t y;
    offset_t modulation;
  };

  class Unit {
   public:
    __device__ __forceinline__ Unit(const Points& points, index_t number)
        : points_(points) {
      const dcnv4::Geometry& geometry = points.geometry_;
      const index_t position = points.groups_.quotient(number);
      group_ = static_cast<int32_t>(number - position * geometry.groups);
      const index_t image = points.outputs_.quotient(position);
      const index_t in_image = position - image * static_cast<index_t>(geometry.outputs);
      const index_t strip = points.strip_.quotient(in_image);
      const index_t in_strip = in_image - strip * kStripRows * geometry.width.output_size;
      const index_t first_row = strip * kStripRows;
      const bool is_last = first_row + kStripRows >= geometry.height.output_size;
      const index_t rows = is_last ? geometry.height.output_size - first_row : index_t(kStripRows);
      const index_t column = points.strip_rows_[is_last].quotient(in_strip);
      const index_t row = first_row + in_strip - column * rows;
      cell_ = image * static_cast<index_t>(geometry.outputs) + row * geometry.width.output_size + column;
      offsets_ = kept<index_t>(
          cell_ * static_cast<index_t>(geometry.offset_mask_channels) + group_ * 3 * geometry.group_points);
      origin_ = kept<index_t>(image * geometry.height.size * points.row_stride_ + group_ * geometry.group_channels);
      output_ = kept<index_t>((cell_ * geometry.groups + group_) * geometry.group_channels);
      center_y_ = static_cast<acc_t>(points.first_center_[0] + int64_t(row) * geometry.height.stride);
      center_x_ = static_cast<acc_t>(points.first_center_[1] + int64_t(column) * geometry.width.stride);
    }

    __device__ __forceinline__ index_t output() const {
      return output_;
    }

    __device__ __forceinline__ Numbers read(int32_t point) const {
      const index_t pair = offsets_ + 2 * point;
      const index_t modulation = offsets_ + 2 * points_.geometry_.group_points + point;
      return {points_.offset_mask_[pair], (points_.offset_mask_ + 1)[pair], points_.offset_mask_[modulation]};
    }

    __device__ __forceinline__ Located<acc_t, index_t> locate(int32_t point, const Numbers& numbers) const {
      return locate_at(points_.tap_of(point), numbers);
    }

    __device__ __forceinline__ Located<acc_t, index_t> locate_usual(int32_t point, const Numbers& numbers) const {
      return locate_at(points_.usual_taps_[point], numbers);
    }

    __device__ __forceinline__ void write_gradient(int32_t point, acc_t y, acc_t x, acc_t modulation) const {
      offset_t* const gradients = points_.grad_offset_mask_ + offsets_;
      gradients[2 * point] = static_cast<offset_t>(x * points_.offset_scale_);
      gradients[2 * point + 1] = static_cast<offset_t>(y * points_.offset_scale_);
      gradients[2 * points_.geometry_.group_points + point] = static_cast<offset_t>(modulation);
    }

    /// The channels of offset_mask after those of the last group.
    __device__ __forceinline__ void write_unused(int32_t lane, int32_t lanes) const {
      const dcnv4::Geometry& geometry = points_.geometry_;
      if (group_ == geometry.groups - 1) {
        offset_t* const end =
            points_.grad_offset_mask_ + (cell_ + 1) * static_cast<index_t>(geometry.offset_mask_channels);
        for (int64_t i = lane + 1; i <= geometry.unused_point_elements(); i += lanes) {
          end[-i] = static_cast<offset_t>(0);
        }
      }
    }

   private:
    __device__ __forceinline__ Located<acc_t, index_t> locate_at(const Tap& tap, const Numbers& numbers) const {
      const dcnv4::Geometry& geometry = points_.geometry_;
      const acc_t y = dcnv4::coordinate(center_y_, tap.y, static_cast<acc_t>(numbers.y), points_.offset_scale_);
      const acc_t x = dcnv4::coordinate(center_x_, tap.x, static_cast<acc_t>(numbers.x), points_.offset_scale_);
      return {
          flash_internimage::locate(y, x, geometry.height.size, geometry.width.size),
          static_cast<acc_t>(numbers.modulation),
          {geometry.height.size, geometry.width.size, points_.row_stride_, static_cast<index_t>(geometry.channels())},
          origin_};
    }

    const Points& points_;
    int32_t group_;
    index_t cell_; // of the output, through the batch
    index_t offsets_; // first element of the unit's slice of offset_mask
    index_t origin_;
    index_t output_;
    acc_t center_y_;
    acc_t center_x_;
  };

 private:
  static constexpr int32_t kStripRows = 4;

  C10_HOST_DEVICE C10_ALWAYS_INLINE Tap tap_of(int32_t point) const {
    const int32_t number = point + (point >= removed_point_ ? 1 : 0);
    const int32_t column = window_rows_.quotient(number);
    const int32_t row = number - column * geometry_.height.kernel_size;
    return {
        static_cast<acc_t>(first_tap_.y + row * geometry_.height.dilation),
        static_cast<acc_t>(first_tap_.x + column * geometry_.width.dilation)};
  }

  dcnv4::Geometry geometry_;
  const offset_t* offset_mask_;
  offset_t* grad_offset_mask_; // null in a forward, or if not needed
  acc_t offset_scale_;
  index_t row_stride_;
  Divider<index_t> groups_;
  Divider<index_t> outputs_; // of an image
  Divider<index_t> strip_; // cells
  Divider<index_t> strip_rows_[2]; // of all strips but the last, and of the last
  Divider<int32_t> window_rows_;
  dcnv4::Tap first_tap_;
  int64_t first_center_[2]; // y and x of the first output's window
  int32_t removed_point_; // index in the window; the points after it are numbered one lower
  Tap usual_taps_[dcnv4::Operator::kUsualPoints] = {}; // of the first points
};

} // namespace flash_internimage::cuda
