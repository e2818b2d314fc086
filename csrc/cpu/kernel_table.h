// The functions of an operator that are compiled once for each instruction set.

#pragma once

#include "../core/call.h"

#include <cstdint>

namespace flash_internimage::cpu {

/// What one thread of a backward owns. It alone writes the gradients of these groups of one image, as far as they
/// belong to this part of the groups' feature maps; Geometry::parts chooses their number.
struct Slice {
  int64_t image;
  int32_t first_group;
  int32_t last_group; // exclusive
  int32_t part;
  int32_t parts;
};

template <typename op_t>
struct KernelTable {
  /// Writes outputs [first, last), numbered through the batch.
  void (*forward)(const Call<op_t>& call, int64_t first, int64_t last);
  /// Writes the gradients that one slice owns.
  void (*backward)(const Call<op_t>& call, const Slice& slice);
};

} // namespace flash_internimage::cpu

// Defined in kernels.h, and instantiated by kernels_generic.cpp, kernels_avx2.cpp and kernels_avx512.cpp.
namespace flash_internimage::generic {
template <typename op_t>
cpu::KernelTable<op_t> kernels();
}
namespace flash_internimage::avx2 {
template <typename op_t>
cpu::KernelTable<op_t> kernels();
}
namespace flash_internimage::avx512 {
template <typename op_t>
cpu::KernelTable<op_t> kernels();
}
