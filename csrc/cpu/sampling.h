// The inner loops over a block of points and the channels at their corners: samples, and their gradients.
// Include after cpu/isa_*.h, cpu/pack.h and cpu/point_block.h.

namespace flash_internimage::FLASH_INTERNIMAGE_ISA {

/// Calls `body(corner, offset)` for each corner of point `i` that is inside its feature map, with its offset in
/// elements from the first cell. `interior` means that all are, and saves the tests.
template <bool interior, typename acc_t, typename body_t>
C10_ALWAYS_INLINE void for_each_corner(const PointBlock<acc_t>& block, int i, int64_t cell_stride, const body_t& body) {
  const int64_t upper = block.cell[i] * cell_stride;
  const int64_t lower = upper + block.width[i] * cell_stride;
  const int64_t offsets[kCorners] = {upper, upper + cell_stride, lower, lower + cell_stride};
  if (interior || block.corners[i] == kAllCorners) {
#pragma GCC unroll 4
    for (int corner = 0; corner < kCorners; ++corner) {
      body(corner, offsets[corner]);
    }
  } else {
#pragma GCC unroll 4
    for (int corner = 0; corner < kCorners; ++corner) {
      if (block.corners[i] >> corner & 1) {
        body(corner, offsets[corner]);
      }
    }
  }
}

/// The sum of weighted samples.
template <typename acc_t, int width>
class SampleSum {
 public:
  using pack_t = Pack<acc_t, width>;

  C10_ALWAYS_INLINE SampleSum() {
#pragma GCC unroll 4
    for (pack_t& sum : sums_) {
      sum = pack_t::zero();
    }
  }

  template <typename value_t>
  C10_ALWAYS_INLINE void add(const PointBlock<acc_t>& block, const value_t* map, int64_t cell_stride) {
    block.interior ? add_points<true>(block, map, cell_stride) : add_points<false>(block, map, cell_stride);
  }

  template <typename value_t>
  C10_ALWAYS_INLINE void store(value_t* to) {
#pragma GCC unroll 4
    for (int i = 1; i < kSums; ++i) {
      sums_[0].add(acc_t(1), sums_[i]);
    }
    sums_[0].store_any_order(to);
  }

 private:
  // Separate accumulators for the corners break the dependency chain of additions. Wide packs have registers for only
  // two.
  static constexpr int kSums = pack_t::kParts > 2 ? 2 : kCorners;

  template <bool interior, typename value_t>
  C10_ALWAYS_INLINE void add_points(const PointBlock<acc_t>& block, const value_t* map, int64_t cell_stride) {
    for (int i = 0; i < block.count; ++i) {
      for_each_corner<interior>(block, i, cell_stride, [&](int corner, int64_t offset) FLASH_INTERNIMAGE_INLINE {
        sums_[corner % kSums].add(block.weight[corner][i], pack_t::load_any_order(map + offset));
      });
    }
  }

  pack_t sums_[kSums];
};

/// Dot products of the output's gradient with the channels at each corner of the points of a block.
template <typename acc_t>
struct CornerDots {
  acc_t at[kBlock][kCorners];

  // Cleared pack by pack, because compilers turn a plain loop into a slower call of memset.
  C10_ALWAYS_INLINE CornerDots() {
    using pack_t = Pack<acc_t, kBlock>;
#pragma GCC unroll 4
    for (int corner = 0; corner < kCorners; ++corner) {
      pack_t::zero().store(at[0] + corner * kBlock);
    }
  }
};

template <bool interior, bool needs_dots, bool needs_grad, typename acc_t, int width, typename value_t>
C10_ALWAYS_INLINE void differentiate_points(
    const PointBlock<acc_t>& block,
    const value_t* map,
    acc_t* grad_map,
    int64_t cell_stride,
    const Pack<acc_t, width>& grad,
    const Pack<acc_t, width>& grad_any_order,
    CornerDots<acc_t>& dots) {
  using pack_t = Pack<acc_t, width>;
  for (int i = 0; i < block.count; ++i) {
    lanes_t<acc_t, pack_t::kLanes> products[kCorners] = {};
    for_each_corner<interior>(block, i, cell_stride, [&](int corner, int64_t offset) FLASH_INTERNIMAGE_INLINE {
      if constexpr (needs_dots) {
        products[corner] = grad_any_order.multiply(pack_t::load_any_order(map + offset));
      }
      if constexpr (needs_grad) {
        auto sum = pack_t::load(grad_map + offset);
        sum.add(block.weight[corner][i], grad);
        sum.store(grad_map + offset);
      }
    });
    if constexpr (needs_dots) {
      add_sums<acc_t, pack_t::kLanes>(products, dots.at[i]);
    }
  }
}

/// Adds dot products to `dots`, and each point's contribution to the corners in `grad_map`, as far as needed. One pass
/// does both, because computing the addresses of corners costs as much as using them. Pointers are to the first of
/// `width` channels.
template <bool needs_dots, bool needs_grad, int width, typename acc_t, typename value_t>
C10_ALWAYS_INLINE void differentiate(
    const PointBlock<acc_t>& block,
    const value_t* map,
    acc_t* grad_map,
    int64_t cell_stride,
    const value_t* grad_output,
    CornerDots<acc_t>& dots) {
  const auto grad = Pack<acc_t, width>::load(grad_output);
  const auto grad_any_order = Pack<acc_t, width>::load_any_order(grad_output);
  if (block.interior) {
    differentiate_points<true, needs_dots, needs_grad>(block, map, grad_map, cell_stride, grad, grad_any_order, dots);
  } else {
    differentiate_points<false, needs_dots, needs_grad>(block, map, grad_map, cell_stride, grad, grad_any_order, dots);
  }
}

/// Gradients of the points of a block, with respect to (y, x) in cells and to the factor.
template <typename acc_t>
struct PointGradients {
  acc_t y[kBlock];
  acc_t x[kBlock];
  acc_t factor[kBlock];

  /// Points outside the feature map get exact zeros, even if their factor or the output's gradient is infinite or NaN.
  C10_ALWAYS_INLINE PointGradients(const PointBlock<acc_t>& block, const CornerDots<acc_t>& dots) {
    for (int i = 0; i < kBlock; ++i) {
      const BilinearPoint<acc_t> point = {0, 0, block.dy[i], block.dx[i], kAllCorners};
      const acc_t* v = dots.at[i];
      const BilinearGradient<acc_t> slope = interpolate_gradient(point, v[0], v[1], v[2], v[3]);
      y[i] = slope.y * block.factor[i];
      x[i] = slope.x * block.factor[i];
      factor[i] = interpolate(point, v[0], v[1], v[2], v[3]);
    }
    if (!block.interior) {
      for (int i = 0; i < kBlock; ++i) {
        const bool inside = block.corners[i] != 0;
        y[i] = inside ? y[i] : acc_t(0);
        x[i] = inside ? x[i] : acc_t(0);
        factor[i] = inside ? factor[i] : acc_t(0);
      }
    }
  }
};

} // namespace flash_internimage::FLASH_INTERNIMAGE_ISA
