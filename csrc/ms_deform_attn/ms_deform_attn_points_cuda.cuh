// The sampling points of multi-scale deformable attention for cuda/sampling.cuh.

#pragma once

#include "../cuda/sampling.cuh"
#include "ms_deform_attn.h"

namespace flash_internimage::cuda {

/// A unit is one head of one query, numbered query * heads + head through the batch.
template <>
struct Points<ms_deform_attn::Operator> {
  template <typename problem_t, typename index_t = typename problem_t::index_t>
  static __device__ __forceinline__ typename problem_t::located_t locate(
      const problem_t& problem, index_t unit, int32_t point) {
    using acc_t = typename problem_t::acc_t;
    const ms_deform_attn::Geometry& geometry = problem.geometry;
    const index_t head = unit % geometry.groups;
    const index_t image = unit / geometry.groups / static_cast<index_t>(geometry.outputs);
    const ms_deform_attn::Level& level = geometry.level[point / geometry.points];
    const index_t at = unit * problem.points + point;
    const auto* const location = problem.point_tensors[0] + 2 * at;
    const index_t first_cell = image * static_cast<index_t>(geometry.input_cells) + static_cast<index_t>(level.start);
    return {
        flash_internimage::locate(
            ms_deform_attn::coordinate(static_cast<acc_t>(location[1]), level.height),
            ms_deform_attn::coordinate(static_cast<acc_t>(location[0]), level.width), level.height, level.width),
        static_cast<acc_t>(problem.point_tensors[1][at]),
        {level.height, level.width, level.width * problem.cell_stride, problem.cell_stride},
        first_cell * problem.cell_stride + head * problem.channels};
  }

  template <
      typename problem_t,
      typename index_t = typename problem_t::index_t,
      typename acc_t = typename problem_t::acc_t>
  static __device__ __forceinline__ void write_gradient(
      const problem_t& problem, index_t unit, int32_t point, acc_t y, acc_t x, acc_t modulation) {
    using points_t = typename problem_t::points_t;
    const ms_deform_attn::Level& level = problem.geometry.level[point / problem.geometry.points];
    const index_t at = unit * problem.points + point;
    points_t* const grad_locations = problem.grad_point_tensors[0];
    points_t* const grad_weights = problem.grad_point_tensors[1];
    if (grad_locations != nullptr) {
      grad_locations[2 * at] = static_cast<points_t>(x * static_cast<acc_t>(level.width));
      grad_locations[2 * at + 1] = static_cast<points_t>(y * static_cast<acc_t>(level.height));
    }
    if (grad_weights != nullptr) {
      grad_weights[at] = static_cast<points_t>(modulation);
    }
  }
};

} // namespace flash_internimage::cuda
