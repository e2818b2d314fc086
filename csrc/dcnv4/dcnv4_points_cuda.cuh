// The sampling points of DCNv4 for cuda/sampling.cuh.

#pragma once

#include "../cuda/sampling.cuh"
#include "dcnv4.h"

namespace flash_internimage::cuda {

/// A unit is one group of one output cell, numbered cell * groups + group through the batch.
template <>
struct Points<dcnv4::Operator> {
  template <typename problem_t, typename index_t = typename problem_t::index_t>
  static __device__ __forceinline__ typename problem_t::located_t locate(
      const problem_t& problem, index_t unit, int32_t point) {
    using acc_t = typename problem_t::acc_t;
    const dcnv4::Geometry& geometry = problem.geometry;
    const index_t cell = unit / geometry.groups;
    const index_t group = unit % geometry.groups;
    const index_t column = cell % geometry.width.output_size;
    const index_t row = cell / geometry.width.output_size % geometry.height.output_size;
    const index_t image = cell / geometry.width.output_size / geometry.height.output_size;

    const auto* const offsets = problem.point_tensors[0] + first_element(problem, unit);
    const dcnv4::Tap place = tap(geometry, point);
    const auto offset_scale = static_cast<acc_t>(geometry.offset_scale);
    const acc_t x = dcnv4::coordinate(
        static_cast<acc_t>(window_center(geometry.width, column)), static_cast<acc_t>(place.x),
        static_cast<acc_t>(offsets[2 * point]), offset_scale);
    const acc_t y = dcnv4::coordinate(
        static_cast<acc_t>(window_center(geometry.height, row)), static_cast<acc_t>(place.y),
        static_cast<acc_t>(offsets[2 * point + 1]), offset_scale);
    const index_t row_stride = geometry.width.size * problem.cell_stride;
    return {
        flash_internimage::locate(y, x, geometry.height.size, geometry.width.size),
        static_cast<acc_t>(offsets[2 * problem.points + point]),
        {geometry.height.size, geometry.width.size, row_stride, problem.cell_stride},
        image * geometry.height.size * row_stride + group * problem.channels};
  }

  template <
      typename problem_t,
      typename index_t = typename problem_t::index_t,
      typename acc_t = typename problem_t::acc_t>
  static __device__ __forceinline__ void write_gradient(
      const problem_t& problem, index_t unit, int32_t point, acc_t y, acc_t x, acc_t modulation) {
    using offset_t = typename problem_t::points_t;
    offset_t* const gradients = problem.grad_point_tensors[0] + first_element(problem, unit);
    const auto offset_scale = static_cast<acc_t>(problem.geometry.offset_scale);
    gradients[2 * point] = static_cast<offset_t>(x * offset_scale);
    gradients[2 * point + 1] = static_cast<offset_t>(y * offset_scale);
    gradients[2 * problem.points + point] = static_cast<offset_t>(modulation);
  }

 private:
  /// Of a unit's slice of offset_mask.
  template <typename problem_t, typename index_t = typename problem_t::index_t>
  static __device__ __forceinline__ index_t first_element(const problem_t& problem, index_t unit) {
    return unit / problem.geometry.groups * static_cast<index_t>(problem.geometry.offset_mask_channels) +
        unit % problem.geometry.groups * 3 * problem.points;
  }
};

} // namespace flash_internimage::cuda
