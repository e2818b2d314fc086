// Where the points of DCNv4 lie, for both compilers. No tensors.

#pragma once

#include <c10/macros/Macros.h>

#include <cstdint>

namespace flash_internimage::dcnv4 {

/// One axis of the window that slides over a map, in cells.
struct Axis {
  int32_t size;
  int32_t output_size;
  int32_t kernel_size;
  int32_t stride;
  int32_t padding;
  int32_t dilation;

  /// From the window's first tap to its center.
  C10_HOST_DEVICE int32_t center() const {
    return dilation * (kernel_size - 1) / 2;
  }
};

struct Geometry {
  int64_t batch;
  Axis height;
  Axis width;
  int32_t groups;
  int32_t group_channels;
  int32_t points; // of one group
  int64_t offset_mask_channels; // at least 3 * points * groups
  double offset_scale;
  bool remove_center;

  C10_HOST_DEVICE int64_t channels() const {
    return static_cast<int64_t>(groups) * group_channels;
  }
  C10_HOST_DEVICE int64_t input_cells() const {
    return static_cast<int64_t>(height.size) * width.size;
  }
  C10_HOST_DEVICE int64_t output_cells() const {
    return static_cast<int64_t>(height.output_size) * width.output_size;
  }
};

/// A point's place in the undeformed window, in cells from the window's center.
struct Tap {
  int32_t y;
  int32_t x;
};

/// Points are numbered down the columns of the window; the removed center has no number.
C10_HOST_DEVICE inline Tap tap(const Geometry& geometry, int32_t point) {
  const int32_t rows = geometry.height.kernel_size;
  if (geometry.remove_center && point >= rows * geometry.width.kernel_size / 2) {
    ++point;
  }
  return {
      point % rows * geometry.height.dilation - geometry.height.center(),
      point / rows * geometry.width.dilation - geometry.width.center()};
}

/// The window's center for one output cell, in input cells.
C10_HOST_DEVICE inline int64_t window_center(const Axis& axis, int64_t output) {
  return axis.center() - axis.padding + output * axis.stride;
}

/// A point's coordinate. The offset scale stretches the window about its center, not only the learned offsets.
template <typename acc_t>
C10_HOST_DEVICE C10_ALWAYS_INLINE acc_t coordinate(acc_t center, acc_t tap, acc_t offset, acc_t offset_scale) {
  return center + (tap + offset) * offset_scale;
}

} // namespace flash_internimage::dcnv4
