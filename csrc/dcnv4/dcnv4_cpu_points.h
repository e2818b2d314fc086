// The sampling points of one output cell and group, located sixteen at a time. Include after cpu/isa_*.h.

#include "../cpu/pack.h"
#include "../cpu/point_block.h"

#include <algorithm>
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
        row_(blocks_.size() * kBlock),
        tap_y_(blocks_.size() * kBlock),
        tap_x_(blocks_.size() * kBlock) {
    for (int32_t point = 0; point < geometry.points; ++point) {
      const Tap place = tap(geometry, point);
      tap_y_[point] = static_cast<acc_t>(place.y);
      tap_x_[point] = static_cast<acc_t>(place.x);
    }
    for (size_t index = 0; index < blocks_.size(); ++index) {
      blocks_[index].count = std::min<int64_t>(kBlock, geometry.points - index * kBlock);
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
    for (size_t index = 0; index < blocks_.size(); ++index, offsets += 2 * kBlock, modulations += kBlock) {
      if (C10_LIKELY(offsets + 2 * kBlock <= end_ && modulations + kBlock <= end_)) {
        // Padding reads the neighbours' points, which is cheaper than not reading.
        locate_block(offsets, modulations, center_y, center_x, index);
      } else {
        offset_t last_offsets[2 * kBlock] = {};
        offset_t last_modulations[kBlock] = {};
        std::copy_n(offsets, 2 * blocks_[index].count, last_offsets);
        std::copy_n(modulations, blocks_[index].count, last_modulations);
        locate_block(last_offsets, last_modulations, center_y, center_x, index);
      }
    }
  }

  /// A located block with only those corners that lie in rows [first, last).
  PointBlock<acc_t> restricted(size_t index, int32_t first, int32_t last) const {
    PointBlock<acc_t> block = blocks_[index];
    for (int i = 0; i < kBlock; ++i) {
      const int32_t row = row_[index * kBlock + i];
      const int32_t upper = row >= first && row < last ? 0x3 : 0;
      const int32_t lower = row + 1 >= first && row + 1 < last ? 0xC : 0;
      block.corners[i] &= upper | lower;
    }
    block.interior = false;
    return block;
  }

 private:
  C10_ALWAYS_INLINE void locate_block(
      const offset_t* offsets, const offset_t* modulations, acc_t center_y, acc_t center_x, size_t index) {
    PointBlock<acc_t>& block = blocks_[index];
    const acc_t* tap_y = tap_y_.data() + index * kBlock;
    const acc_t* tap_x = tap_x_.data() + index * kBlock;
    int32_t* rows = row_.data() + index * kBlock;
    const int32_t height = geometry_.height.size;
    const int32_t width = geometry_.width.size;
    const acc_t offset_scale = offset_scale_;
    acc_t y[kBlock];
    acc_t x[kBlock];
    for (int i = 0; i < kBlock; ++i) {
      x[i] = coordinate(center_x, tap_x[i], static_cast<acc_t>(offsets[2 * i]), offset_scale);
      y[i] = coordinate(center_y, tap_y[i], static_cast<acc_t>(offsets[2 * i + 1]), offset_scale);
    }
    const int32_t count = block.count;
    int32_t common = kAllCorners;
    for (int i = 0; i < kBlock; ++i) {
      const BilinearPoint<acc_t> point = flash_internimage::locate(y[i], x[i], height, width);
      block.set(i, point, 0, width, static_cast<acc_t>(modulations[i]));
      rows[i] = point.row;
      common &= i < count ? point.corners : kAllCorners;
    }
    block.interior = common == kAllCorners;
  }

  const Geometry& geometry_;
  const offset_t* offset_mask_;
  const offset_t* end_;
  acc_t offset_scale_;
  std::vector<PointBlock<acc_t>> blocks_;
  std::vector<int32_t> row_;
  std::vector<acc_t> tap_y_;
  std::vector<acc_t> tap_x_;
};

} // namespace flash_internimage::dcnv4::FLASH_INTERNIMAGE_ISA
