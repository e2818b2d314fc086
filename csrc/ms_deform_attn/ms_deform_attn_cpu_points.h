// The sampling points of one head of one query, located sixteen at a time. Include after cpu/isa_*.h.

#include <algorithm>
#include <vector>

namespace flash_internimage::ms_deform_attn::FLASH_INTERNIMAGE_ISA {

using namespace flash_internimage::FLASH_INTERNIMAGE_ISA;

/// Locates the points of levels [first_level, last_level). Cells are counted from the first token of the image.
template <typename acc_t, typename points_t>
class Points {
 public:
  Points(
      const Geometry& geometry,
      const void* sampling_locations,
      const void* attention_weights,
      int32_t first_level,
      int32_t last_level)
      : head_points_(geometry.head_points()),
        first_point_(first_level * geometry.points),
        locations_(static_cast<const points_t*>(sampling_locations)),
        weights_(static_cast<const points_t*>(attention_weights)),
        weights_end_(weights_ + geometry.batch * geometry.queries * geometry.heads * head_points_),
        blocks_(((last_level - first_level) * geometry.points + kBlock - 1) / kBlock),
        height_(blocks_.size() * kBlock),
        width_(blocks_.size() * kBlock),
        start_(blocks_.size() * kBlock) {
    const int32_t count = (last_level - first_level) * geometry.points;
    for (int32_t i = 0; i < count; ++i) {
      const Level& level = geometry.level[first_level + i / geometry.points];
      height_[i] = level.height;
      width_[i] = level.width;
      start_[i] = static_cast<int32_t>(level.start);
    }
    for (size_t block = 0; block < blocks_.size(); ++block) {
      blocks_[block].count = std::min<int32_t>(kBlock, count - static_cast<int32_t>(block) * kBlock);
    }
  }

  const std::vector<PointBlock<acc_t>>& blocks() const {
    return blocks_;
  }
  /// Of point `i` of block `block`.
  const int32_t* heights(size_t block) const {
    return height_.data() + block * kBlock;
  }
  const int32_t* widths(size_t block) const {
    return width_.data() + block * kBlock;
  }

  /// Elements of attention_weights before the first point; sampling_locations has twice as many.
  C10_ALWAYS_INLINE int64_t first(int64_t query_head) const {
    return query_head * head_points_ + first_point_;
  }

  /// Fills the blocks for a head of a query, numbered query * heads + head through the batch.
  C10_ALWAYS_INLINE void locate(int64_t query_head) {
    const points_t* weights = weights_ + first(query_head);
    const points_t* locations = locations_ + 2 * first(query_head);
    for (size_t index = 0; index < blocks_.size(); ++index, weights += kBlock, locations += 2 * kBlock) {
      if (C10_LIKELY(weights + kBlock <= weights_end_)) {
        // Padding reads the neighbours' points, which is cheaper than not reading.
        locate_block(locations, weights, index);
      } else {
        points_t last_locations[2 * kBlock] = {};
        points_t last_weights[kBlock] = {};
        std::copy_n(locations, 2 * blocks_[index].count, last_locations);
        std::copy_n(weights, blocks_[index].count, last_weights);
        locate_block(last_locations, last_weights, index);
      }
    }
  }

 private:
  C10_ALWAYS_INLINE void locate_block(const points_t* locations, const points_t* weights, size_t index) {
    PointBlock<acc_t>& block = blocks_[index];
    const int32_t* height = heights(index);
    const int32_t* width = widths(index);
    const int32_t* start = start_.data() + index * kBlock;
    acc_t y[kBlock];
    acc_t x[kBlock];
    for (int i = 0; i < kBlock; ++i) {
      x[i] = coordinate(static_cast<acc_t>(locations[2 * i]), width[i]);
      y[i] = coordinate(static_cast<acc_t>(locations[2 * i + 1]), height[i]);
    }
    const int32_t count = block.count;
    int32_t common = kAllCorners;
    for (int i = 0; i < kBlock; ++i) {
      const BilinearPoint<acc_t> point = flash_internimage::locate(y[i], x[i], height[i], width[i]);
      block.set(i, point, start[i], width[i], static_cast<acc_t>(weights[i]));
      common &= i < count ? point.corners : kAllCorners;
    }
    block.interior = common == kAllCorners;
  }

  int64_t head_points_;
  int64_t first_point_;
  const points_t* locations_;
  const points_t* weights_;
  const points_t* weights_end_;
  std::vector<PointBlock<acc_t>> blocks_;
  std::vector<int32_t> height_;
  std::vector<int32_t> width_;
  std::vector<int32_t> start_;
};

} // namespace flash_internimage::ms_deform_attn::FLASH_INTERNIMAGE_ISA
