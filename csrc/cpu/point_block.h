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
  acc_t weight[kCorners][kBlock]; // factor x corner weight

  C10_ALWAYS_INLINE void set(
      int i, const BilinearPoint<acc_t>& point, int32_t first_cell, int32_t width, acc_t new_factor) {
    cell[i] = first_cell + point.row * width + point.column;
    below[i] = width;
    corners[i] = point.corners;
    dy[i] = point.dy;
    dx[i] = point.dx;
    factor[i] = new_factor;
    weight[0][i] = new_factor * corner_weight(point, 0);
    weight[1][i] = new_factor * corner_weight(point, 1);
    weight[2][i] = new_factor * corner_weight(point, 2);
    weight[3][i] = new_factor * corner_weight(point, 3);
  }
};

/// Calls `body(corner, offset)` with each corner of point `i` that lies on its map, `offset` being in elements from the
/// map's first cell. `interior` says that all do, which spares the questions.
template <bool interior, typename acc_t, typename body_t>
C10_ALWAYS_INLINE void for_each_corner(const PointBlock<acc_t>& block, int i, int64_t cell_stride, const body_t& body) {
  const int64_t upper = block.cell[i] * cell_stride;
  const int64_t lower = upper + block.below[i] * cell_stride;
  const int64_t offsets[kCorners] = {upper, upper + cell_stride, lower, lower + cell_stride};
#pragma GCC unroll 4
  for (int corner = 0; corner < kCorners; ++corner) {
    if (interior || (block.corners[i] >> corner & 1)) {
      body(corner, offsets[corner]);
    }
  }
}

/// Adds the weighted samples of a block to `sum`.
template <bool interior, typename acc_t, int width, typename value_t>
C10_ALWAYS_INLINE void add_samples(
    const PointBlock<acc_t>& block, const value_t* map, int64_t cell_stride, Pack<acc_t, width>& sum) {
  for (int i = 0; i < block.count; ++i) {
    for_each_corner<interior>(block, i, cell_stride, [&](int corner, int64_t offset) {
      sum.add(block.weight[corner][i], Pack<acc_t, width>::load(map + offset));
    });
  }
}

/// Dot products of the output's gradient with the corners of each point of a block.
template <typename acc_t>
struct CornerDots {
  acc_t at[kCorners][kBlock];
};

/// Adds to `dots`, and to the corners in `grad_map` each point's share of the output's gradient, as far as wanted: one
/// walk over the points, because finding the corners costs as much as using them.
template <bool interior, bool wants_dots, bool wants_grad, typename acc_t, int width, typename value_t>
C10_ALWAYS_INLINE void differentiate(
    const PointBlock<acc_t>& block,
    const value_t* map,
    acc_t* grad_map,
    int64_t cell_stride,
    const Pack<acc_t, width>& grad,
    CornerDots<acc_t>& dots) {
  using pack_t = Pack<acc_t, width>;
  for (int i = 0; i < block.count; ++i) {
    for_each_corner<interior>(block, i, cell_stride, [&](int corner, int64_t offset) {
      if constexpr (wants_dots) {
        dots.at[corner][i] += sum_lanes<acc_t, pack_t::kLanes>(grad.multiply(pack_t::load(map + offset)));
      }
      if constexpr (wants_grad) {
        auto sum = pack_t::load(grad_map + offset);
        sum.add(block.weight[corner][i], grad);
        sum.store(grad_map + offset);
      }
    });
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
