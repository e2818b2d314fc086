// Multi-scale deformable attention: every head of a query adds up a few weighted samples of each level of a feature
// pyramid (arXiv:2010.04159, section 4.1).
//
//     value               (N, S, heads, D)                    tokens of all levels, one level after the other, row by row
//     spatial_shapes      2L integers                         height and width of each level; S is the sum of height x width
//     sampling_locations  (N, Q, heads, L, points, 2)         (x, y), 0..1 between a level's edges
//     attention_weights   (N, Q, heads, L, points)            used as they are, without a softmax
//     output              (N, Q, heads * D)
//
// sampling_locations and attention_weights have the same dtype: that of value, or float32 if value is float16 or
// bfloat16.

#pragma once

#include "../core/call.h"

#include <c10/macros/Macros.h>
#include <c10/util/ArrayRef.h>

#include <array>
#include <cstdint>

namespace at {
class Tensor; // Kernels include this header, and compile without tensors.
}

namespace flash_internimage::ms_deform_attn {

/// Levels are passed to a kernel by value, so their number has a limit. Four is usual.
constexpr int32_t kMaxLevels = 32;

/// One feature map of the pyramid.
struct Level {
  int64_t start; // its first token
  int32_t height;
  int32_t width;
};

/// A group is a head, an output a query, an input cell a token.
struct Geometry : Sizes {
  int32_t levels;
  int32_t points; // of one level
  Level level[kMaxLevels];

  std::array<int64_t, 3> output_shape() const {
    return {batch, outputs, channels()};
  }
  /// Elements per output of the largest point tensor.
  int64_t point_elements() const {
    return int64_t(2) * groups * group_points;
  }
  /// Every element belongs to a point.
  int64_t unused_point_elements() const {
    return 0;
  }
  /// The number of parts that a backward divides a head's feature maps into if it would like `wanted`: all levels, or
  /// one part for each.
  int64_t parts(int64_t wanted) const {
    return wanted > 1 ? levels : 1;
  }
};

/// A coordinate in cells, from 0..1 between the level's edges. Cell centers lie at half-integers.
template <typename acc_t>
C10_HOST_DEVICE C10_ALWAYS_INLINE acc_t coordinate(acc_t location, int32_t size) {
  return location * static_cast<acc_t>(size) - acc_t(0.5);
}

struct Operator {
  using Geometry = ms_deform_attn::Geometry;
  static constexpr const char* kName = "ms_deform_attn";
  static constexpr const char* kArguments =
      "Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations, Tensor attention_weights";
  static constexpr std::array kPointTensors = {"sampling_locations", "attention_weights"};
  static constexpr int kUsualChannels = 32; // per head, with 256 channels and 8 heads as in DINO
  static constexpr int kUsualPoints = 0; // unrolled passes would need 5 % fewer instructions, but 25 KB of them
  static constexpr bool kSymbolic = true; // lists of integers are SymInt[]

  /// Checks all arguments, for every device.
  static Geometry check(
      const at::Tensor& value,
      c10::IntArrayRef spatial_shapes,
      const at::Tensor& sampling_locations,
      const at::Tensor& attention_weights);
};

} // namespace flash_internimage::ms_deform_attn
