// The sampling points of one output cell and group. Include after cpu/isa_*.h, cpu/pack.h and cpu/point_block.h.

#include <vector>

namespace flash_internimage::dcnv4::FLASH_INTERNIMAGE_ISA {

using namespace flash_internimage::FLASH_INTERNIMAGE_ISA;

template <typename acc_t, typename offset_t>
class Points {
 public:
  Points(const Geometry& geometry, const void* offset_mask)
      : geometry_(geometry),
        offset_mask_(static_cast<const offset_t*>(offset_mask)),
        end_(offset_mask_ + geometry.batch * geometry.output_cells() * geometry.offset_mask_channels),
        offset_scale_(static_cast<acc_t>(geometry.offset_scale)),
        blocks_((geometry.points + kBlock - 1) / kBlock),
        tap_y_(blocks_.size() * kBlock),
        tap_x_(blocks_.size() * kBlock) {
    for (int32_t point = 0; point < geometry.points; ++point) {
      const Tap place = tap(geometry, point);
      tap_y_[point] = static_cast<acc_t>(place.y);
      tap_x_[point] = static_cast<acc_t>(place.x);
      blocks_[point / kBlock].place(geometry.height.size, geometry.width.size, 0);
    }
  }

  const std::vector<PointBlock<acc_t>>& blocks() const {
    return blocks_;
  }

  /// Fills the blocks for a group of output cell `cell` of the batch, which lies at (row, column) of its image.
  C10_ALWAYS_INLINE void locate(int64_t cell, int64_t row, int64_t column, int32_t group) {
    const offset_t* offsets =
        offset_mask_ + cell * geometry_.offset_mask_channels + int64_t(3) * geometry_.points * group;
    const offset_t* modulations = offsets + 2 * int64_t(geometry_.points);
    const acc_t center_y = static_cast<acc_t>(window_center(geometry_.height, row));
    const acc_t center_x = static_cast<acc_t>(window_center(geometry_.width, column));
    for_each_block<acc_t, offset_t>(
        blocks_, {offsets, end_}, {modulations, end_},
        [&](PointBlock<acc_t>& block, size_t index, const offset_t* pairs, const offset_t* factors) {
          const acc_t* tap_y = tap_y_.data() + index * kBlock;
          const acc_t* tap_x = tap_x_.data() + index * kBlock;
          const acc_t offset_scale = offset_scale_;
          acc_t y[kBlock];
          acc_t x[kBlock];
          acc_t factor[kBlock];
          split_pairs(pairs, x, y);
          for (int i = 0; i < kBlock; ++i) {
            y[i] = coordinate(center_y, tap_y[i], y[i], offset_scale);
            x[i] = coordinate(center_x, tap_x[i], x[i], offset_scale);
            factor[i] = static_cast<acc_t>(factors[i]);
          }
          block.locate(y, x, factor);
        });
  }

 private:
  const Geometry& geometry_;
  const offset_t* offset_mask_;
  const offset_t* end_;
  acc_t offset_scale_;
  std::vector<PointBlock<acc_t>> blocks_;
  std::vector<acc_t> tap_y_;
  std::vector<acc_t> tap_x_;
};

} // namespace flash_internimage::dcnv4::FLASH_INTERNIMAGE_ISA
