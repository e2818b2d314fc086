// Bilinear sampling of one point, and its gradient, for the CPU and the CUDA compiler.
//
// An operator computes a point's coordinates and loads the values at its corners. This file decides the rest: which
// points are inside the feature map, which corners exist, their interpolation weights, and the gradient with respect to
// the coordinates.
//
// A cell is one pixel of a feature map. The four cells around a point are its corners, numbered
//
//     0 --- 1      0: (row, column)          1: (row, column + 1)
//     |     |
//     2 --- 3      2: (row + 1, column)      3: (row + 1, column + 1)
//
// Corners outside the feature map have the value zero. Nothing here reads memory: callers load the values.

#pragma once

#include <c10/macros/Macros.h>

#include <cstdint>

namespace flash_internimage {

/// A feature map of `height` x `width` cells with contiguous channels. Strides are in elements, so the struct describes
/// one group of channels-last features as well as one head of one level of a flattened pyramid.
template <typename index_t>
struct CellGrid {
  int32_t height;
  int32_t width;
  index_t row_stride;
  index_t cell_stride;
};

/// A point's cell and its position within. Bit i of `corners` is set if corner i is inside the feature map. For a point
/// outside the feature map `corners` is 0, and the other members are those of some point on it or on its border.
template <typename acc_t>
struct BilinearPoint {
  int32_t row;
  int32_t column;
  acc_t dy; // distance below row, in [0, 1)
  acc_t dx; // distance right of column, in [0, 1)
  int32_t corners;
};

/// Derivatives of a sample with respect to its point's coordinates.
template <typename acc_t>
struct BilinearGradient {
  acc_t y;
  acc_t x;
};

constexpr int kCorners = 4;
constexpr int32_t kAllCorners = 0xF;

/// `number` between `low` and `high`, `low` for NaN. Compilers vectorize these comparisons for CPUs.
template <typename acc_t>
C10_HOST_DEVICE C10_ALWAYS_INLINE acc_t clamp(acc_t number, acc_t low, acc_t high) {
  number = number > low ? number : low;
  return number < high ? number : high;
}

/// The floor of a number above -1. GPUs have an instruction for that.
template <typename acc_t>
C10_HOST_DEVICE C10_ALWAYS_INLINE int32_t round_down(acc_t number) {
#ifdef __CUDA_ARCH__
  return static_cast<int32_t>(floor(number));
#else
  // Conversion truncates toward zero, which differs from the floor in (-1, 0) only.
  return static_cast<int32_t>(number) - (number < acc_t(0) ? 1 : 0);
#endif
}

/// The point at (y, x), in cells. It is inside the feature map if -1 < y < height and -1 < x < width, which NaN is not.
/// Other points are moved before their conversion to integers, which would otherwise overflow: to the border, or on GPUs
/// to (0, 0), with one instruction per coordinate. Minima, maxima and integer masks in place of branches on bool let
/// compilers vectorize this for CPUs.
template <typename acc_t>
C10_HOST_DEVICE C10_ALWAYS_INLINE BilinearPoint<acc_t> locate(acc_t y, acc_t x, int32_t height, int32_t width) {
  const acc_t bottom = static_cast<acc_t>(height);
  const acc_t right = static_cast<acc_t>(width);
  const int32_t inside =
      (y > acc_t(-1) ? ~0 : 0) & (x > acc_t(-1) ? ~0 : 0) & (y < bottom ? ~0 : 0) & (x < right ? ~0 : 0);
#ifdef __CUDA_ARCH__
  y = inside ? y : acc_t(0);
  x = inside ? x : acc_t(0);
#else
  y = clamp(y, acc_t(-1), bottom);
  x = clamp(x, acc_t(-1), right);
#endif
  const int32_t row = round_down(y);
  const int32_t column = round_down(x);
  const int32_t rows = (row >= 0 ? 0x3 : 0) | (row < height - 1 ? 0xC : 0);
  const int32_t columns = (column >= 0 ? 0x5 : 0) | (column < width - 1 ? 0xA : 0);
  return {row, column, y - static_cast<acc_t>(row), x - static_cast<acc_t>(column), inside & rows & columns};
}

template <typename acc_t>
C10_HOST_DEVICE C10_ALWAYS_INLINE bool has_corner(const BilinearPoint<acc_t>& point, int corner) {
  return (point.corners >> corner) & 1;
}

/// Elements from the feature map's first cell to a corner. Valid only if `has_corner`.
template <typename acc_t, typename index_t>
C10_HOST_DEVICE C10_ALWAYS_INLINE index_t
corner_offset(const BilinearPoint<acc_t>& point, int corner, const CellGrid<index_t>& grid) {
  return (static_cast<index_t>(point.row) + (corner >> 1)) * grid.row_stride +
      (static_cast<index_t>(point.column) + (corner & 1)) * grid.cell_stride;
}

/// A corner's interpolation weight, whether or not it is inside the feature map.
template <typename acc_t>
C10_HOST_DEVICE C10_ALWAYS_INLINE acc_t corner_weight(const BilinearPoint<acc_t>& point, int corner) {
  return ((corner >> 1) ? point.dy : acc_t(1) - point.dy) * ((corner & 1) ? point.dx : acc_t(1) - point.dx);
}

/// The sample, from the values at the corners, which are zero outside the feature map.
template <typename acc_t>
C10_HOST_DEVICE C10_ALWAYS_INLINE acc_t
interpolate(const BilinearPoint<acc_t>& point, acc_t v0, acc_t v1, acc_t v2, acc_t v3) {
  return corner_weight(point, 0) * v0 + corner_weight(point, 1) * v1 + corner_weight(point, 2) * v2 +
      corner_weight(point, 3) * v3;
}

/// The gradient of `interpolate` with respect to the point's coordinates. On a grid line, where bilinear sampling has a
/// kink, it is the one-sided derivative towards larger coordinates.
///
/// Interpolation is linear in the values. So the dot products of the output's gradient with the channels of each
/// corner, passed as values, give the gradient of the loss in one call instead of one call per channel.
template <typename acc_t>
C10_HOST_DEVICE C10_ALWAYS_INLINE BilinearGradient<acc_t> interpolate_gradient(
    const BilinearPoint<acc_t>& point, acc_t v0, acc_t v1, acc_t v2, acc_t v3) {
  return {
      (acc_t(1) - point.dx) * (v2 - v0) + point.dx * (v3 - v1),
      (acc_t(1) - point.dy) * (v1 - v0) + point.dy * (v3 - v2)};
}

} // namespace flash_internimage
