// A call of an operator as its kernels see it, on any device: sizes and addresses, no tensors.

#pragma once

#include <c10/core/ScalarType.h>
#include <c10/macros/Macros.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace flash_internimage {

/// Sizes that every operator has. The geometry of an operator derives from this and adds its own.
struct Sizes {
  int64_t batch;
  int64_t input_cells; // per image, over all feature maps
  int64_t outputs; // per image: output cells or queries
  int32_t groups; // of channels; attention calls them heads
  int32_t group_channels;
  int32_t group_points; // that each group of an output samples

  C10_HOST_DEVICE C10_ALWAYS_INLINE int64_t channels() const {
    return static_cast<int64_t>(groups) * group_channels;
  }
};

/// A forward or backward. All buffers are contiguous, and there is at least one output element.
template <typename op_t>
struct Call {
  static constexpr size_t kPointTensors = op_t::kPointTensors.size();

  typename op_t::Geometry geometry;
  c10::ScalarType value_dtype; // of value, output and grad_output
  c10::ScalarType points_dtype; // of the point tensors and their gradients
  const void* value = nullptr; // (batch, input_cells, channels); a backward reads it for the gradients of points only
  std::array<const void*, kPointTensors> points = {}; // in the order of op_t::kPointTensors
  void* output = nullptr; // (batch, outputs, channels); null in a backward
  const void* grad_output = nullptr; // null in a forward, as all members below
  void* grad_value = nullptr; // zeros of opmath_type to add to, or null if not needed
  std::array<void*, kPointTensors> grad_points = {}; // to be written, null where not needed

  C10_ALWAYS_INLINE bool needs_grad_points() const {
    for (const void* gradient : grad_points) {
      if (gradient != nullptr) {
        return true;
      }
    }
    return false;
  }
};

} // namespace flash_internimage
