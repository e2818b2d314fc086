// Sampling points in blocks of sixteen.
//
// A block is a struct of arrays, so that sampling locations are computed with vector instructions whatever the number
// of points, and once for all channels. Include after cpu/isa_*.h and cpu/pack.h.

#include "../core/bilinear.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

namespace flash_internimage::FLASH_INTERNIMAGE_ISA {

constexpr int kBlock = 16;

/// Larger feature maps have cells whose coordinates float32 cannot represent.
constexpr int32_t kExactSize = 1 << 24;

template <typename acc_t>
struct PointBlock {
  using bits_t = std::conditional_t<sizeof(acc_t) == sizeof(int32_t), int32_t, int64_t>;

  // Set once, by `place`. Slots from `count` on are padding: points on a small feature map that is never read.
  int32_t count = 0;
  bits_t used[kBlock]; // a mask: all bits for a point, none for padding
  int32_t height[kBlock];
  int32_t width[kBlock];
  int32_t first_cell[kBlock]; // of the point's feature map, counted from the cell that `map` points to in sampling.h
  acc_t interior_height[kBlock]; // all corners of a point are inside the feature map if 0 <= y < interior_height
  acc_t interior_width[kBlock];

  // Computed by `locate`.
  bool interior; // whether all corners of all points are inside their feature maps; `corners` is then not written
  int32_t corners[kBlock];
  int32_t row[kBlock];
  int32_t cell[kBlock]; // of corner 0, counted like first_cell
  acc_t dy[kBlock];
  acc_t dx[kBlock];
  acc_t factor[kBlock]; // by which the operator multiplies the sample
  acc_t weight[kCorners][kBlock]; // factor x corner weight

  PointBlock() {
    for (int i = 0; i < kBlock; ++i) {
      place_slot(i, 2, 2, 0);
      used[i] = 0;
    }
  }

  /// Adds a point on a feature map of `map_height` x `map_width` cells.
  void place(int32_t map_height, int32_t map_width, int32_t map_first_cell) {
    place_slot(count, map_height, map_width, map_first_cell);
    used[count] = ~bits_t(0);
    ++count;
  }

  /// Computes cells, corners and weights of all points. That of slot i is at (y[i], x[i]), in cells.
  C10_ALWAYS_INLINE void locate(const acc_t* any_y, const acc_t* any_x, const acc_t* factors) {
    acc_t y[kBlock];
    acc_t x[kBlock];
    for (int i = 0; i < kBlock; ++i) {
      y[i] = zero_if_padding(any_y[i], i);
      x[i] = zero_if_padding(any_x[i], i);
    }
    int32_t inside = ~0;
    for (int i = 0; i < kBlock; ++i) {
      inside &= (y[i] >= acc_t(0) ? ~0 : 0) & (x[i] >= acc_t(0) ? ~0 : 0) & (y[i] < interior_height[i] ? ~0 : 0) &
          (x[i] < interior_width[i] ? ~0 : 0);
    }
    interior = inside != 0;
    if (interior) {
      for (int i = 0; i < kBlock; ++i) {
        const auto upper = static_cast<int32_t>(y[i]);
        const auto left = static_cast<int32_t>(x[i]);
        set(i, {upper, left, y[i] - static_cast<acc_t>(upper), x[i] - static_cast<acc_t>(left), kAllCorners},
            factors[i]);
      }
    } else {
      for (int i = 0; i < kBlock; ++i) {
        const BilinearPoint<acc_t> point = flash_internimage::locate(y[i], x[i], height[i], width[i]);
        set(i, point, factors[i]);
        corners[i] = point.corners;
      }
    }
  }

  /// This block without the corners outside rows [first, last).
  PointBlock restricted(int32_t first, int32_t last) const {
    PointBlock block = *this;
    for (int i = 0; i < kBlock; ++i) {
      const int32_t upper = row[i] >= first && row[i] < last ? 0x3 : 0;
      const int32_t lower = row[i] + 1 >= first && row[i] + 1 < last ? 0xC : 0;
      block.corners[i] = (interior ? kAllCorners : corners[i]) & (upper | lower);
    }
    block.interior = false;
    return block;
  }

 private:
  void place_slot(int i, int32_t map_height, int32_t map_width, int32_t map_first_cell) {
    const bool exact = map_height <= kExactSize && map_width <= kExactSize;
    height[i] = map_height;
    width[i] = map_width;
    first_cell[i] = map_first_cell;
    interior_height[i] = exact ? static_cast<acc_t>(map_height - 1) : acc_t(0);
    interior_width[i] = exact ? static_cast<acc_t>(map_width - 1) : acc_t(0);
  }

  C10_ALWAYS_INLINE acc_t zero_if_padding(acc_t coordinate, int i) const {
    bits_t bits;
    std::memcpy(&bits, &coordinate, sizeof(bits));
    bits &= used[i];
    std::memcpy(&coordinate, &bits, sizeof(bits));
    return coordinate;
  }

  C10_ALWAYS_INLINE void set(int i, const BilinearPoint<acc_t>& point, acc_t new_factor) {
    row[i] = point.row;
    cell[i] = first_cell[i] + point.row * width[i] + point.column;
    dy[i] = point.dy;
    dx[i] = point.dx;
    factor[i] = new_factor;
    weight[0][i] = new_factor * corner_weight(point, 0);
    weight[1][i] = new_factor * corner_weight(point, 1);
    weight[2][i] = new_factor * corner_weight(point, 2);
    weight[3][i] = new_factor * corner_weight(point, 3);
  }
};

/// A pointer into a buffer, and the end of the buffer.
template <typename points_t>
struct Readable {
  const points_t* at;
  const points_t* end;
};

/// Calls `body(block, index, pairs, factors)` for each block, with the pairs and factors of its sixteen slots. Padding
/// slots read whatever follows the last point, which is cheaper than a partial load, or zeros at the end of the buffer.
template <typename acc_t, typename points_t, typename body_t>
C10_ALWAYS_INLINE void for_each_block(
    std::vector<PointBlock<acc_t>>& blocks, Readable<points_t> pairs, Readable<points_t> factors, const body_t& body) {
  for (size_t index = 0; index < blocks.size(); ++index, pairs.at += 2 * kBlock, factors.at += kBlock) {
    if (C10_LIKELY(pairs.end - pairs.at >= 2 * kBlock && factors.end - factors.at >= kBlock)) {
      body(blocks[index], index, pairs.at, factors.at);
    } else {
      points_t last_pairs[2 * kBlock] = {};
      points_t last_factors[kBlock] = {};
      std::copy_n(pairs.at, 2 * blocks[index].count, last_pairs);
      std::copy_n(factors.at, blocks[index].count, last_factors);
      body(blocks[index], index, last_pairs, last_factors);
    }
  }
}

/// Deinterleaves a block's (x, y) pairs.
template <typename acc_t, typename points_t>
C10_ALWAYS_INLINE void split_pairs(const points_t* pairs, acc_t* x, acc_t* y) {
  constexpr int lanes = Pack<acc_t, kBlock>::kLanes;
#pragma GCC unroll 8
  for (int i = 0; i < kBlock; i += lanes) {
    const auto first = load_lanes<acc_t, lanes>(pairs + 2 * i);
    const auto second = load_lanes<acc_t, lanes>(pairs + 2 * i + lanes);
    store_lanes<lanes, acc_t>(x + i, even_lanes<lanes>(first, second));
    store_lanes<lanes, acc_t>(y + i, odd_lanes<lanes>(first, second));
  }
}

} // namespace flash_internimage::FLASH_INTERNIMAGE_ISA
