// Where the points of multi-scale deformable attention lie, for both compilers. No tensors.

#pragma once

#include "../core/bilinear.h"

#include <c10/macros/Macros.h>

#include <cstdint>

namespace flash_internimage::ms_deform_attn {

/// Levels travel to a kernel inside its arguments, so their number has a limit. Four is usual.
constexpr int32_t kMaxLevels = 32;

/// One map of the pyramid.
struct Level {
  int64_t start; // its first token
  int32_t height;
  int32_t width;
};

struct Geometry {
  int64_t batch;
  int64_t tokens; // cells of all levels
  int64_t queries;
  int32_t heads;
  int32_t head_channels;
  int32_t levels;
  int32_t points; // of one level
  Level level[kMaxLevels];

  C10_HOST_DEVICE int64_t channels() const {
    return static_cast<int64_t>(heads) * head_channels;
  }
  /// Points that one head of one query reads.
  C10_HOST_DEVICE int32_t head_points() const {
    return levels * points;
  }

  /// One head's channels of one level, and from the image's first element to them.
  template <typename index_t>
  C10_HOST_DEVICE CellGrid<index_t> grid(int32_t l) const {
    const auto cell_stride = static_cast<index_t>(channels());
    return {level[l].height, level[l].width, level[l].width * cell_stride, cell_stride};
  }
  template <typename index_t>
  C10_HOST_DEVICE index_t grid_start(int32_t l, int32_t head) const {
    return static_cast<index_t>(level[l].start) * static_cast<index_t>(channels()) +
        static_cast<index_t>(head) * head_channels;
  }
};

/// A coordinate in cells, from 0..1 between the level's edges. Cell centers lie at half-integers.
template <typename acc_t>
C10_HOST_DEVICE C10_ALWAYS_INLINE acc_t coordinate(acc_t location, int32_t size) {
  return location * static_cast<acc_t>(size) - acc_t(0.5);
}

} // namespace flash_internimage::ms_deform_attn
