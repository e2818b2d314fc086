// What the kernels of each instruction set are given, and the table through which they are called.

#pragma once

#include "../cpu/kernel_table.h"
#include "geometry.h"

#include <c10/core/ScalarType.h>

#include <cstdint>

namespace flash_internimage::ms_deform_attn {

struct ForwardCall {
  Geometry geometry;
  c10::ScalarType value_dtype;
  c10::ScalarType points_dtype; // of sampling_locations and attention_weights
  const void* value;
  const void* sampling_locations;
  const void* attention_weights;
  void* output;
};

struct BackwardCall {
  Geometry geometry;
  c10::ScalarType value_dtype;
  c10::ScalarType points_dtype;
  const void* grad_output;
  const void* value;
  const void* sampling_locations;
  const void* attention_weights;
  void* grad_value; // zeros of opmath_type to add to, or null where it is not wanted
  void* grad_sampling_locations; // written, or null where it is not wanted
  void* grad_attention_weights; // written, or null where it is not wanted
};

/// What one thread of a backward owns: it alone writes the gradients of these heads of one image, in these levels.
struct BackwardSlice {
  int64_t image;
  int32_t first_head;
  int32_t last_head; // exclusive, as last_level
  int32_t first_level;
  int32_t last_level;
};

using Kernels = cpu::KernelTable<ForwardCall, BackwardCall, BackwardSlice>;

namespace generic {
extern const Kernels kernels;
}
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}

} // namespace flash_internimage::ms_deform_attn
