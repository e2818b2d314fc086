// Bilinear sampling of one point, and its gradient, for both compilers.
//
// An operator says where a point lies and what its corners hold; everything else about bilinear sampling is decided here
// once: which points count, which corners exist, what each corner weighs, and how the sample moves with the point.
//
// The four corners of a point are numbered
//
//     0 --- 1      0: (row, column)          1: (row, column + 1)
//     |     |
//     2 --- 3      2: (row + 1, column)      3: (row + 1, column + 1)
//
// Cells outside the map hold zero. Nothing here reads memory, so a caller decides how values are loaded.

#pragma once

#include <c10/macros/Macros.h>

#include <cstdint>

namespace flash_internimage {

/// A map of `height` x `width` cells, each of which holds contiguous channels. Strides are in elements, so the same
/// struct describes one group of channels-last features and one head of one level of a flattened pyramid.
template <typename index_t>
struct CellGrid {
  int32_t height;
  int32_t width;
  index_t row_stride;
  index_t cell_stride;
};

/// Where a point lies among the cells. `corners` has bit i set where corner i lies on the map; it is 0 for a
/// point that does not count, and the rest is then a place on or just off the map.
template <typename acc_t>
struct BilinearPoint {
  int32_t row;
  int32_t column;
  acc_t dy; // distance below row, in [0, 1)
  acc_t dx; // distance right of column, in [0, 1)
  int32_t corners;
};

/// How a sample changes as its point moves down and right.
template <typename acc_t>
struct BilinearGradient {
  acc_t y;
  acc_t x;
};

constexpr int kCorners = 4;
constexpr int32_t kAllCorners = 0xF;

/// The point at (y, x), in cells. A point counts when -1 < y < height and -1 < x < width. The comparisons are false for
/// NaN, and what they leave of a coordinate fits an integer.
/// Minima, maxima and integer masks instead of conditions on bool: compilers turn those into vectors.
template <typename acc_t>
C10_HOST_DEVICE C10_ALWAYS_INLINE BilinearPoint<acc_t> locate(acc_t y, acc_t x, int32_t height, int32_t width) {
  const acc_t bottom = static_cast<acc_t>(height);
  const acc_t right = static_cast<acc_t>(width);
  const int32_t counts =
      (y > acc_t(-1) ? ~0 : 0) & (x > acc_t(-1) ? ~0 : 0) & (y < bottom ? ~0 : 0) & (x < right ? ~0 : 0);
  y = y > acc_t(-1) ? y : acc_t(-1);
  y = y < bottom ? y : bottom;
  x = x > acc_t(-1) ? x : acc_t(-1);
  x = x < right ? x : right;
  // Conversion truncates; only (-1, 0) truncates upwards.
  const int32_t row = static_cast<int32_t>(y) - (y < acc_t(0) ? 1 : 0);
  const int32_t column = static_cast<int32_t>(x) - (x < acc_t(0) ? 1 : 0);
  // Each comparison takes away the two corners on the side where it fails.
  const int32_t corners = (row >= 0 ? 0xF : 0xC) & (column >= 0 ? 0xF : 0xA) & (row + 1 < height ? 0xF : 0x3) &
      (column + 1 < width ? 0xF : 0x5);
  return {row, column, y - static_cast<acc_t>(row), x - static_cast<acc_t>(column), counts & corners};
}

template <typename acc_t>
C10_HOST_DEVICE C10_ALWAYS_INLINE bool has_corner(const BilinearPoint<acc_t>& point, int corner) {
  return (point.corners >> corner) & 1;
}

/// Elements from the map's first cell to a corner. Only meaningful, and only safe to read, where `has_corner`.
template <typename acc_t, typename index_t>
C10_HOST_DEVICE C10_ALWAYS_INLINE index_t
corner_offset(const BilinearPoint<acc_t>& point, int corner, const CellGrid<index_t>& grid) {
  return (static_cast<index_t>(point.row) + (corner >> 1)) * grid.row_stride +
      (static_cast<index_t>(point.column) + (corner & 1)) * grid.cell_stride;
}

/// What a corner weighs in the sample, whether or not it lies on the map.
template <typename acc_t>
C10_HOST_DEVICE C10_ALWAYS_INLINE acc_t corner_weight(const BilinearPoint<acc_t>& point, int corner) {
  return ((corner >> 1) ? point.dy : acc_t(1) - point.dy) * ((corner & 1) ? point.dx : acc_t(1) - point.dx);
}

/// The sample between four corner values. Corners off the map are passed as zero.
template <typename acc_t>
C10_HOST_DEVICE C10_ALWAYS_INLINE acc_t
interpolate(const BilinearPoint<acc_t>& point, acc_t v0, acc_t v1, acc_t v2, acc_t v3) {
  return corner_weight(point, 0) * v0 + corner_weight(point, 1) * v1 + corner_weight(point, 2) * v2 +
      corner_weight(point, 3) * v3;
}

/// The gradient of `interpolate` with respect to the point's position. On a grid line, where the sample has a kink, it
/// is the slope towards larger coordinates.
///
/// Interpolation is linear in the corner values, so passing the dot products of the output's gradient with each corner's
/// channels gives the gradient of the loss in one call, rather than one call a channel.
template <typename acc_t>
C10_HOST_DEVICE C10_ALWAYS_INLINE BilinearGradient<acc_t> interpolate_gradient(
    const BilinearPoint<acc_t>& point, acc_t v0, acc_t v1, acc_t v2, acc_t v3) {
  return {
      (acc_t(1) - point.dx) * (v2 - v0) + point.dx * (v3 - v1),
      (acc_t(1) - point.dy) * (v1 - v0) + point.dy * (v3 - v2)};
}

} // namespace flash_internimage
