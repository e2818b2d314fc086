// The loops between located points and the channels they read: samples, and their gradients.
// Include after cpu/isa_*.h, cpu/pack.h and cpu/point_block.h.

namespace flash_internimage::FLASH_INTERNIMAGE_ISA {

/// Calls `body(corner, offset)` with each corner of point `i` that lies on its map, `offset` being in elements from the
/// map's first cell. `interior` says that all do, which spares the questions.
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
  // An addition waits for the one before it to the same sum, so corners are summed apart as far as registers reach.
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

/// Dot products of the output's gradient with the corners of each point of a block.
template <typename acc_t>
struct CornerDots {
  acc_t at[kBlock][kCorners];

  // Pack by pack, because compilers make of a plain loop a call to fill memory, which costs more than the rest.
  C10_ALWAYS_INLINE CornerDots() {
    using pack_t = Pack<acc_t, kBlock>;
#pragma GCC unroll 4
    for (int corner = 0; corner < kCorners; ++corner) {
      pack_t::zero().store(at[0] + corner * kBlock);
    }
  }
};

template <bool interior, bool wants_dots, bool wants_grad, typename acc_t, int width, typename value_t>
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
      if constexpr (wants_dots) {
        products[corner] = grad_any_order.multiply(pack_t::load_any_order(map + offset));
      }
      if constexpr (wants_grad) {
        auto sum = pack_t::load(grad_map + offset);
        sum.add(block.weight[corner][i], grad);
        sum.store(grad_map + offset);
      }
    });
    if constexpr (wants_dots) {
      add_sums<acc_t, pack_t::kLanes>(products, dots.at[i]);
    }
  }
}

/// Adds to `dots`, and to the corners in `grad_map` each point's share of the output's gradient, as far as wanted: one
/// walk over the points, because finding the corners costs as much as using them. Pointers are to the first of `width`
/// channels.
template <bool wants_dots, bool wants_grad, int width, typename acc_t, typename value_t>
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
    differentiate_points<true, wants_dots, wants_grad>(block, map, grad_map, cell_stride, grad, grad_any_order, dots);
  } else {
    differentiate_points<false, wants_dots, wants_grad>(block, map, grad_map, cell_stride, grad, grad_any_order, dots);
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
      const BilinearPoint<acc_t> point = {0, 0, block.dy[i], block.dx[i], kAllCorners};
      const acc_t* v = dots.at[i];
      const BilinearGradient<acc_t> slope = interpolate_gradient(point, v[0], v[1], v[2], v[3]);
      y[i] = slope.y * block.factor[i];
      x[i] = slope.x * block.factor[i];
      factor[i] = interpolate(point, v[0], v[1], v[2], v[3]);
    }
    if (!block.interior) {
      for (int i = 0; i < kBlock; ++i) {
        const bool counts = block.corners[i] != 0;
        y[i] = counts ? y[i] : acc_t(0);
        x[i] = counts ? x[i] : acc_t(0);
        factor[i] = counts ? factor[i] : acc_t(0);
      }
    }
  }
};

} // namespace flash_internimage::FLASH_INTERNIMAGE_ISA
