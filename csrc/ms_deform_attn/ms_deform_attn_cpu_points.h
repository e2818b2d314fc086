// The sampling points of one head of one query. Include after cpu/isa_*.h, cpu/pack.h and cpu/point_block.h.

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
        locations_end_(locations_ + 2 * geometry.batch * geometry.queries * geometry.heads * head_points_),
        weights_(static_cast<const points_t*>(attention_weights)),
        weights_end_(weights_ + geometry.batch * geometry.queries * geometry.heads * head_points_),
        blocks_(((last_level - first_level) * geometry.points + kBlock - 1) / kBlock) {
    for (int32_t point = 0; point < (last_level - first_level) * geometry.points; ++point) {
      const Level& level = geometry.level[first_level + point / geometry.points];
      blocks_[point / kBlock].place(level.height, level.width, static_cast<int32_t>(level.start));
    }
  }

  const std::vector<PointBlock<acc_t>>& blocks() const {
    return blocks_;
  }

  /// Elements of attention_weights before the first point; sampling_locations has twice as many.
  C10_ALWAYS_INLINE int64_t first(int64_t query_head) const {
    return query_head * head_points_ + first_point_;
  }

  /// Fills the blocks for a head of a query, numbered query * heads + head through the batch.
  C10_ALWAYS_INLINE void locate(int64_t query_head) {
    const points_t* locations = locations_ + 2 * first(query_head);
    const points_t* weights = weights_ + first(query_head);
    for_each_block<acc_t, points_t>(
        blocks_, {locations, locations_end_}, {weights, weights_end_},
        [](PointBlock<acc_t>& block, size_t, const points_t* pairs, const points_t* factors) {
          acc_t y[kBlock];
          acc_t x[kBlock];
          acc_t factor[kBlock];
          split_pairs(pairs, x, y);
          for (int i = 0; i < kBlock; ++i) {
            y[i] = coordinate(y[i], block.height[i]);
            x[i] = coordinate(x[i], block.width[i]);
            factor[i] = static_cast<acc_t>(factors[i]);
          }
          block.locate(y, x, factor);
        });
  }

 private:
  int64_t head_points_;
  int64_t first_point_;
  const points_t* locations_;
  const points_t* locations_end_;
  const points_t* weights_;
  const points_t* weights_end_;
  std::vector<PointBlock<acc_t>> blocks_;
};

} // namespace flash_internimage::ms_deform_attn::FLASH_INTERNIMAGE_ISA
