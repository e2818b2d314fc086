// DCNv4: deformable convolution with unnormalized modulation, channels last (arXiv:2401.06197).
//
//     value        (N, H, W, C)    C = G groups of D channels
//     offset_mask  (N, Ho, Wo, P)  group g owns [3Kg, 3K(g + 1)): K pairs (x, y) of offsets, then K modulations
//     output       (N, Ho, Wo, C)  for each group the sum over its K points of modulation x sample
//
// offset_mask has the dtype of value, or float32 if value is float16 or bfloat16. Channels of offset_mask after those
// of the last group are ignored; their gradient is zero.

#pragma once

#include "../core/call.h"

#include <c10/macros/Macros.h>
#include <c10/util/ArrayRef.h>

#include <algorithm>
#include <array>
#include <cstdint>

namespace at {
class Tensor; // Kernels include this header, and compile without tensors.
}

namespace flash_internimage::dcnv4 {

/// One axis of the window that slides over a feature map, in cells.
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

struct Geometry : Sizes {
  Axis height;
  Axis width;
  int64_t offset_mask_channels; // at least 3 * group_points * groups
  double offset_scale;
  bool remove_center;

  std::array<int64_t, 4> output_shape() const {
    return {batch, height.output_size, width.output_size, channels()};
  }
  /// Elements per output of the largest point tensor.
  int64_t point_elements() const {
    return offset_mask_channels;
  }
  /// The last elements of these, which belong to no point: their gradient is zero.
  C10_HOST_DEVICE int64_t unused_point_elements() const {
    return offset_mask_channels - int64_t(3) * group_points * groups;
  }
  /// The number of parts that a backward divides a group's feature map into if it would like `wanted`: bands of rows.
  int64_t parts(int64_t wanted) const {
    return std::min<int64_t>(wanted, height.size);
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

/// A point's coordinate. offset_scale stretches the whole window about its center, not only the learned offsets.
template <typename acc_t>
C10_HOST_DEVICE C10_ALWAYS_INLINE acc_t coordinate(acc_t center, acc_t tap, acc_t offset, acc_t offset_scale) {
  return center + (tap + offset) * offset_scale;
}

struct Operator {
  using Geometry = dcnv4::Geometry;
  static constexpr const char* kName = "dcnv4";
  static constexpr const char* kArguments =
      "Tensor value, Tensor offset_mask, int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, "
      "int groups, float offset_scale, bool remove_center";
  static constexpr std::array kPointTensors = {"offset_mask"};
  static constexpr int kUsualChannels = 16; // per group, in all published models
  static constexpr int kUsualPoints = 9; // of a group: 3 x 3
  static constexpr bool kSymbolic = false; // no SymInt[] among the arguments

  /// Checks all arguments, for every device.
  static Geometry check(
      const at::Tensor& value,
      const at::Tensor& offset_mask,
      c10::IntArrayRef kernel_size,
      c10::IntArrayRef stride,
      c10::IntArrayRef padding,
      c10::IntArrayRef dilation,
      int64_t groups,
      double offset_scale,
      bool remove_center);
};

} // namespace flash_internimage::dcnv4
