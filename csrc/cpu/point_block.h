// Sampling points, located sixteen at a time, and the loops between them and the channels they read.
//
// Points are kept as a struct of arrays: locating is then arithmetic on whole registers, whatever the number of points,
// and happens once for all channels. Include after cpu/isa_*.h and cpu/pack.h.

#include "../core/bilinear.h"

#include <cstdint>

namespace flash_internimage::FLASH_INTERNIMAGE_ISA {

constexpr int kBlock = 16;

template <typename acc_t>
struct PointBlock {
  int32_t count; // of points in use; the rest of each array is padding
  bool interior; // all corners of all points lie on their maps
  int32_t cell[kBlock]; // of corner 0, counted from the first cell of the map that `map` pointers below point to
  int32_t below[kBlock]; // cells from a corner to the one below it: the map's width
  int32_t corners[kBlock];
  acc_t dy[kBlock];
  acc_t dx[kBlock];
  acc_t factor[kBlock]; // what the operator multiplies the sample by
  acc_t weight[kCorners][kBlock]; // factor x corner weight, zero for corners off the map

  C10_ALWAYS_INLINE void set(int i, const BilinearPoint<acc_t>& point, int32_t first_cell, int32_t width, acc_t new_factor) {
    cell[i] = first_cell + point.row * width + point.column;
    below[i] = width;
    corners[i] = point.corners;
    dy[i] = point.dy;
    dx[i] = point.dx;
    factor[i] = new_factor;
    weight[0][i] = (point.corners & 1) ? new_factor * corner_weight(point, 0) : acc_t(0);
    weight[1][i] = (point.corners & 2) ? new_factor * corner_weight(point, 1) : acc_t(0);
    weight[2][i] = (point.corners & 4) ? new_factor * corner_weight(point, 2) : acc_t(0);
    weight[3][i] = (point.corners & 8) ? new_factor * corner_weight(point, 3) : acc_t(0);
  }
};

/// Corner pointers of one point. Missing corners point to `missing`, so that the loops over channels need no branch:
/// zeros to read from, or a place to write what nobody reads.
template <bool interior, typename scalar_t>
struct Corners {
  scalar_t* at[kCorners];

  template <typename acc_t>
  C10_ALWAYS_INLINE Corners(
      scalar_t* map, const PointBlock<acc_t>& block, int i, int32_t present, int64_t cell_stride, scalar_t* missing) {
    scalar_t* upper = map + block.cell[i] * cell_stride;
    scalar_t* lower = upper + block.below[i] * cell_stride;
    scalar_t* const all[kCorners] = {upper, upper + cell_stride, lower, lower + cell_stride};
#pragma GCC unroll 4
    for (int corner = 0; corner < kCorners; ++corner) {
      at[corner] = (interior || (present >> corner & 1)) ? all[corner] : missing;
    }
  }
};

/// Adds the weighted samples of a block to `sum`.
template <bool interior, typename acc_t, int width, typename value_t>
C10_ALWAYS_INLINE void add_samples(
    const PointBlock<acc_t>& block,
    const value_t* map,
    int64_t cell_stride,
    const value_t* zeros,
    Pack<acc_t, width>& sum) {
  for (int i = 0; i < block.count; ++i) {
    const Corners<interior, const value_t> corners(map, block, i, block.corners[i], cell_stride, zeros);
#pragma GCC unroll 4
    for (int corner = 0; corner < kCorners; ++corner) {
      sum.add(block.weight[corner][i], Pack<acc_t, width>::load(corners.at[corner]));
    }
  }
}

/// Dot products of the output's gradient with the corners of each point of a block.
template <typename acc_t>
struct CornerDots {
  acc_t at[kCorners][kBlock];
};

template <bool interior, typename acc_t, int width, typename value_t>
C10_ALWAYS_INLINE void add_dots(
    const PointBlock<acc_t>& block,
    const value_t* map,
    int64_t cell_stride,
    const value_t* zeros,
    const Pack<acc_t, width>& grad,
    CornerDots<acc_t>& dots) {
  for (int i = 0; i < block.count; ++i) {
    const Corners<interior, const value_t> corners(map, block, i, block.corners[i], cell_stride, zeros);
#pragma GCC unroll 4
    for (int corner = 0; corner < kCorners; ++corner) {
      dots.at[corner][i] +=
          sum_lanes<acc_t, Pack<acc_t, width>::kLanes>(grad.multiply(Pack<acc_t, width>::load(corners.at[corner])));
    }
  }
}

/// Adds each point's share of the output's gradient to the corners that `present` has.
template <bool interior, typename acc_t, int width>
C10_ALWAYS_INLINE void scatter(
    const PointBlock<acc_t>& block,
    const int32_t* present,
    acc_t* grad_map,
    int64_t cell_stride,
    acc_t* unread,
    const Pack<acc_t, width>& grad) {
  for (int i = 0; i < block.count; ++i) {
    const Corners<interior, acc_t> corners(grad_map, block, i, present[i], cell_stride, unread);
#pragma GCC unroll 4
    for (int corner = 0; corner < kCorners; ++corner) {
      auto sum = Pack<acc_t, width>::load(corners.at[corner]);
      sum.add(block.weight[corner][i], grad);
      sum.store(corners.at[corner]);
    }
  }
}

/// Gradients of the points of a block: of (y, x) in cells, and of the factor.
template <typename acc_t>
struct PointGradients {
  acc_t y[kBlock];
  acc_t x[kBlock];
  acc_t factor[kBlock];

  /// Points that do not count get exact zeros, whatever their factor or the output's gradient hold.
  C10_ALWAYS_INLINE PointGradients(const PointBlock<acc_t>& block, const CornerDots<acc_t>& dots) {
    for (int i = 0; i < kBlock; ++i) {
      const BilinearPoint<acc_t> point = {0, 0, block.dy[i], block.dx[i], block.corners[i]};
      const acc_t v0 = dots.at[0][i];
      const acc_t v1 = dots.at[1][i];
      const acc_t v2 = dots.at[2][i];
      const acc_t v3 = dots.at[3][i];
      const BilinearGradient<acc_t> slope = interpolate_gradient(point, v0, v1, v2, v3);
      const bool counts = point.corners != 0;
      y[i] = counts ? slope.y * block.factor[i] : acc_t(0);
      x[i] = counts ? slope.x * block.factor[i] : acc_t(0);
      factor[i] = counts ? interpolate(point, v0, v1, v2, v3) : acc_t(0);
    }
  }
};

} // namespace flash_internimage::FLASH_INTERNIMAGE_ISA
