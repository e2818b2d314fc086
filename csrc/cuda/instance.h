// The choice of a kernel instance by sizes and addresses. Plain arithmetic, so it is tested without a GPU.

#pragma once

#include <cstdint>
#include <initializer_list>

namespace flash_internimage::cuda {

/// Whether 32-bit indices reach every element. The limit is half their range, so that intermediate sums do not
/// overflow.
inline bool fits_32_bits(std::initializer_list<int64_t> sizes) {
  for (const int64_t size : sizes) {
    if (size >= int64_t(1) << 30) {
      return false;
    }
  }
  return true;
}

/// Whether a lane can read `width` channels of a group at once, in words of `word_bytes`, at all of these addresses.
inline bool allows_vectors(
    int64_t channels, int64_t width, int64_t word_bytes, std::initializer_list<const void*> pointers) {
  if (channels % width != 0) {
    return false;
  }
  for (const void* pointer : pointers) {
    if (reinterpret_cast<uintptr_t>(pointer) % word_bytes != 0) {
      return false;
    }
  }
  return true;
}

} // namespace flash_internimage::cuda
