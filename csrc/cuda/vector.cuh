// Vector access: reads, writes and atomic additions of `width` contiguous channels.
//
// Addresses have to be multiples of width x sizeof(scalar_t), so callers choose the width by the alignment.

#pragma once

#include <c10/macros/Macros.h>

#include <cstdint>

namespace flash_internimage::cuda {

template <typename scalar_t, int width>
struct alignas(sizeof(scalar_t) * width) Vector {
  scalar_t at[width];
};

template <int width, typename acc_t, typename scalar_t>
__device__ __forceinline__ void load(const scalar_t* from, acc_t (&to)[width]) {
  const auto vector = *reinterpret_cast<const Vector<scalar_t, width>*>(from);
#pragma unroll
  for (int i = 0; i < width; ++i) {
    to[i] = static_cast<acc_t>(vector.at[i]);
  }
}

template <int width, typename acc_t, typename scalar_t>
__device__ __forceinline__ void store(const acc_t (&from)[width], scalar_t* to) {
  Vector<scalar_t, width> vector;
#pragma unroll
  for (int i = 0; i < width; ++i) {
    vector.at[i] = static_cast<scalar_t>(from[i]);
  }
  *reinterpret_cast<Vector<scalar_t, width>*>(to) = vector;
}

/// to[i] += weight * from[i], while other threads may add to the same elements.
template <int width, typename acc_t>
__device__ __forceinline__ void add_atomically(acc_t weight, const acc_t (&from)[width], acc_t* to) {
#pragma unroll
  for (int i = 0; i < width; ++i) {
    atomicAdd(to + i, weight * from[i]);
  }
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
/// Compute capability 9 has vector atomics: four floats in one transaction.
__device__ __forceinline__ void add_four_atomically(float weight, const float* from, float* to) {
  atomicAdd(
      reinterpret_cast<float4*>(to),
      make_float4(weight * from[0], weight * from[1], weight * from[2], weight * from[3]));
}

template <>
__device__ __forceinline__ void add_atomically<4, float>(float weight, const float (&from)[4], float* to) {
  add_four_atomically(weight, from, to);
}

template <>
__device__ __forceinline__ void add_atomically<8, float>(float weight, const float (&from)[8], float* to) {
  add_four_atomically(weight, from, to);
  add_four_atomically(weight, from + 4, to + 4);
}
#endif

/// The sum over each group of `lanes` consecutive threads of a warp, returned to all of them. Every thread of the warp
/// must call it.
template <typename acc_t>
__device__ __forceinline__ acc_t sum_over_lanes(acc_t term, int lanes) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    term += __shfl_xor_sync(0xFFFFFFFF, term, distance);
  }
  return term;
}

} // namespace flash_internimage::cuda
