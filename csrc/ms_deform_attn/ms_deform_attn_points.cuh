// The points of multi-scale deformable attention as cuda/sampling.cuh asks for them.

#pragma once

#include "../cuda/sampling.cuh"
#include "geometry.h"

namespace flash_internimage::ms_deform_attn {

/// A unit is one head of one query, numbered query * heads + head through the batch.
template <typename value_type, typename location_t, typename acc_type, typename index_type>
struct Points {
  using value_t = value_type;
  using acc_t = acc_type;
  using index_t = index_type;

  int64_t units;
  int32_t points; // of all levels
  int32_t channels;
  index_t cell_stride;
  Geometry geometry;
  const location_t* sampling_locations;
  const location_t* attention_weights;
  location_t* grad_sampling_locations; // null in a forward, or where it is not wanted, as the next
  location_t* grad_attention_weights;

  __device__ __forceinline__ cuda::Located<acc_t, index_t> locate(index_t unit, int32_t point) const {
    const index_t head = unit % geometry.heads;
    const index_t image = unit / geometry.heads / static_cast<index_t>(geometry.queries);
    const int32_t level = point / geometry.points;
    const index_t at = unit * points + point;
    const CellGrid<index_t> grid = geometry.grid<index_t>(level);
    return {
        flash_internimage::locate(
            coordinate(static_cast<acc_t>(sampling_locations[2 * at + 1]), grid.height),
            coordinate(static_cast<acc_t>(sampling_locations[2 * at]), grid.width), grid.height, grid.width),
        static_cast<acc_t>(attention_weights[at]), grid,
        image * static_cast<index_t>(geometry.tokens) * cell_stride + geometry.grid_start<index_t>(level, head)};
  }

  __device__ __forceinline__ void write_gradient(
      index_t unit, int32_t point, acc_t y, acc_t x, acc_t modulation) const {
    const Level& level = geometry.level[point / geometry.points];
    const index_t at = unit * points + point;
    if (grad_sampling_locations != nullptr) {
      grad_sampling_locations[2 * at] = static_cast<location_t>(x * static_cast<acc_t>(level.width));
      grad_sampling_locations[2 * at + 1] = static_cast<location_t>(y * static_cast<acc_t>(level.height));
    }
    if (grad_attention_weights != nullptr) {
      grad_attention_weights[at] = static_cast<location_t>(modulation);
    }
  }
};

} // namespace flash_internimage::ms_deform_attn
