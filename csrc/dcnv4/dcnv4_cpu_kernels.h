// What the kernels of each instruction set are given, and the table through which they are called.

#pragma once

#include "../cpu/kernel_table.h"
#include "geometry.h"

#include <c10/core/ScalarType.h>

#include <cstdint>

namespace flash_internimage::dcnv4 {

struct ForwardCall {
  Geometry geometry;
  c10::ScalarType value_dtype;
  c10::ScalarType offset_mask_dtype;
  const void* value;
  const void* offset_mask;
  void* output;
};

struct BackwardCall {
  Geometry geometry;
  c10::ScalarType value_dtype;
  c10::ScalarType offset_mask_dtype;
  const void* grad_output;
  const void* value;
  const void* offset_mask;
  void* grad_value; // zeros of opmath_type to add to, or null where it is not wanted
  void* grad_offset_mask; // written up to the tail, or null where it is not wanted
};

/// What one thread of a backward owns: it alone writes the gradient of these groups of one image, in these rows.
/// Input rows bound what it adds to grad_value, output rows what it writes to grad_offset_mask.
struct BackwardSlice {
  int64_t image;
  int32_t first_group;
  int32_t last_group; // exclusive, as all that follow
  int32_t first_input_row;
  int32_t last_input_row;
  int32_t first_output_row;
  int32_t last_output_row;
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

} // namespace flash_internimage::dcnv4
