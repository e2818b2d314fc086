// The points of DCNv4 as cuda/sampling.cuh asks for them.

#pragma once

#include "../cuda/sampling.cuh"
#include "geometry.h"

namespace flash_internimage::dcnv4 {

template <typename value_type, typename offset_t, typename acc_type, typename index_type>
struct Points {
  using value_t = value_type;
  using acc_t = acc_type;
  using index_t = index_type;

  int64_t units;
  int32_t points;
  int32_t channels;
  index_t cell_stride;
  Geometry geometry;
  const offset_t* offset_mask;
  offset_t* grad_offset_mask; // null in a forward

  __device__ __forceinline__ index_t slice(index_t cell, index_t group) const {
    return cell * static_cast<index_t>(geometry.offset_mask_channels) + group * 3 * points;
  }

  __device__ __forceinline__ cuda::Located<acc_t, index_t> locate(index_t unit, int32_t point) const {
    const index_t cell = unit / geometry.groups;
    const index_t group = unit % geometry.groups;
    const index_t column = cell % geometry.width.output_size;
    const index_t row = cell / geometry.width.output_size % geometry.height.output_size;
    const index_t image = cell / geometry.width.output_size / geometry.height.output_size;

    const offset_t* const offsets = offset_mask + slice(cell, group);
    const Tap place = tap(geometry, point);
    const auto offset_scale = static_cast<acc_t>(geometry.offset_scale);
    const acc_t x = coordinate(
        static_cast<acc_t>(window_center(geometry.width, column)), static_cast<acc_t>(place.x),
        static_cast<acc_t>(offsets[2 * point]), offset_scale);
    const acc_t y = coordinate(
        static_cast<acc_t>(window_center(geometry.height, row)), static_cast<acc_t>(place.y),
        static_cast<acc_t>(offsets[2 * point + 1]), offset_scale);
    const index_t row_stride = geometry.width.size * cell_stride;
    return {
        flash_internimage::locate(y, x, geometry.height.size, geometry.width.size),
        static_cast<acc_t>(offsets[2 * points + point]),
        {geometry.height.size, geometry.width.size, row_stride, cell_stride},
        image * geometry.height.size * row_stride + group * channels};
  }

  __device__ __forceinline__ void write_gradient(
      index_t unit, int32_t point, acc_t y, acc_t x, acc_t modulation) const {
    offset_t* const gradients = grad_offset_mask + slice(unit / geometry.groups, unit % geometry.groups);
    const auto offset_scale = static_cast<acc_t>(geometry.offset_scale);
    gradients[2 * point] = static_cast<offset_t>(x * offset_scale);
    gradients[2 * point + 1] = static_cast<offset_t>(y * offset_scale);
    gradients[2 * points + point] = static_cast<offset_t>(modulation);
  }
};

} // namespace flash_internimage::dcnv4
