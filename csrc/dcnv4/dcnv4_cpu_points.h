// The sampling points of one output cell and group, located sixteen at a time.
//
// Points are kept as a struct of arrays: locating is then arithmetic on whole registers, whatever the kernel size, and
// happens once for all channels of the group. Include after cpu/isa_*.h.

#include <algorithm>
#include <vector>

namespace flash_internimage::dcnv4::FLASH_INTERNIMAGE_ISA {

constexpr int kBlock = 16;

template <typename acc_t>
struct PointBlock {
  int32_t count; // of points in use; the rest of each array is padding
  int32_t row[kBlock];
  int32_t column[kBlock];
  int32_t corners[kBlock];
  acc_t dy[kBlock];
  acc_t dx[kBlock];
  acc_t modulation[kBlock];
  acc_t weight[kCorners][kBlock]; // modulation x corner weight, zero for corners off the map
};

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
    }
    for (size_t block = 0; block < blocks_.size(); ++block) {
      blocks_[block].count = std::min<int64_t>(kBlock, geometry.points - block * kBlock);
    }
  }

  const std::vector<PointBlock<acc_t>>& blocks() const {
    return blocks_;
  }

  /// Fills the blocks for a group of output cell `cell` of the batch, at (row, column) of its image.
  /// Returns whether all corners of all points lie on the map.
  C10_ALWAYS_INLINE bool locate(int64_t cell, int64_t row, int64_t column, int32_t group) {
    const offset_t* slice = offset_mask_ + cell * geometry_.offset_mask_channels + int64_t(3) * geometry_.points * group;
    const acc_t center_y = static_cast<acc_t>(window_center(geometry_.height, row));
    const acc_t center_x = static_cast<acc_t>(window_center(geometry_.width, column));
    int32_t common = kAllCorners;
    for (size_t block = 0; block < blocks_.size(); ++block) {
      const offset_t* offsets = slice + 2 * kBlock * block;
      const offset_t* modulations = slice + 2 * int64_t(geometry_.points) + kBlock * block;
      const acc_t* tap_y = tap_y_.data() + kBlock * block;
      const acc_t* tap_x = tap_x_.data() + kBlock * block;
      if (C10_LIKELY(offsets + 2 * kBlock <= end_ && modulations + kBlock <= end_)) {
        // Padding reads the neighbours' offsets, which is cheaper than not reading.
        common &= locate_block(offsets, modulations, tap_y, tap_x, center_y, center_x, blocks_[block]);
      } else {
        offset_t last_offsets[2 * kBlock] = {};
        offset_t last_modulations[kBlock] = {};
        std::copy_n(offsets, 2 * blocks_[block].count, last_offsets);
        std::copy_n(modulations, blocks_[block].count, last_modulations);
        common &= locate_block(last_offsets, last_modulations, tap_y, tap_x, center_y, center_x, blocks_[block]);
      }
    }
    return common == kAllCorners;
  }

 private:
  C10_ALWAYS_INLINE int32_t locate_block(
      const offset_t* offsets,
      const offset_t* modulations,
      const acc_t* tap_y,
      const acc_t* tap_x,
      acc_t center_y,
      acc_t center_x,
      PointBlock<acc_t>& block) const {
    const int32_t height = geometry_.height.size;
    const int32_t width = geometry_.width.size;
    const int32_t count = block.count;
    acc_t y[kBlock];
    acc_t x[kBlock];
    for (int i = 0; i < kBlock; ++i) {
      x[i] = coordinate(center_x, tap_x[i], static_cast<acc_t>(offsets[2 * i]), offset_scale_);
      y[i] = coordinate(center_y, tap_y[i], static_cast<acc_t>(offsets[2 * i + 1]), offset_scale_);
    }
    int32_t common = kAllCorners;
    for (int i = 0; i < kBlock; ++i) {
      const BilinearPoint<acc_t> point = flash_internimage::locate(y[i], x[i], height, width);
      const acc_t modulation = static_cast<acc_t>(modulations[i]);
      block.row[i] = point.row;
      block.column[i] = point.column;
      block.corners[i] = point.corners;
      block.dy[i] = point.dy;
      block.dx[i] = point.dx;
      block.modulation[i] = modulation;
      block.weight[0][i] = (point.corners & 1) ? modulation * corner_weight(point, 0) : acc_t(0);
      block.weight[1][i] = (point.corners & 2) ? modulation * corner_weight(point, 1) : acc_t(0);
      block.weight[2][i] = (point.corners & 4) ? modulation * corner_weight(point, 2) : acc_t(0);
      block.weight[3][i] = (point.corners & 8) ? modulation * corner_weight(point, 3) : acc_t(0);
      common &= i < count ? point.corners : kAllCorners;
    }
    return common;
  }

  const Geometry& geometry_;
  const offset_t* offset_mask_;
  const offset_t* end_;
  acc_t offset_scale_;
  std::vector<PointBlock<acc_t>> blocks_;
  std::vector<acc_t> tap_y_;
  std::vector<acc_t> tap_x_;
};

} // namespace flash_internimage::dcnv4::FLASH_INTERNIMAGE_ISA
