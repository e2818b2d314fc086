// Division by a number that is known at the launch. Plain arithmetic, so it is tested without a GPU.

#pragma once

#include <c10/macros/Macros.h>

#include <cstdint>

namespace flash_internimage::cuda {

/// Divides non-negative numbers by a positive one. GPUs divide integers in about twenty instructions.
template <typename index_t>
class Divider {
 public:
  explicit Divider(index_t divisor)
      : divisor_(divisor) {}

  C10_HOST_DEVICE C10_ALWAYS_INLINE index_t quotient(index_t number) const {
    return number / divisor_;
  }

 private:
  index_t divisor_;
};

/// 32-bit numbers are multiplied by the reciprocal, rounded up, in 31 + shift binary places. As 2^shift is less than
/// twice the divisor it fits 32 bits, and as 2^shift is no less than the divisor its error is too small to matter.
template <>
class Divider<int32_t> {
 public:
  explicit Divider(int32_t divisor) {
    while (int64_t(1) << shift_ < divisor) {
      ++shift_;
    }
    reciprocal_ = static_cast<uint32_t>(((uint64_t(1) << (31 + shift_)) + divisor - 1) / divisor);
  }

  C10_HOST_DEVICE C10_ALWAYS_INLINE int32_t quotient(int32_t number) const {
    const uint64_t product = static_cast<uint64_t>(2 * static_cast<uint32_t>(number)) * reciprocal_;
    return static_cast<int32_t>(static_cast<uint32_t>(product >> 32) >> shift_);
  }

 private:
  uint32_t shift_ = 0;
  uint32_t reciprocal_;
};

} // namespace flash_internimage::cuda
