// CUDA's names for a C++ compiler, as far as the kernels use them; ../machine.h implements them. Included before
// everything else, as nvcc does with its own header of this name, and found before that one.

#pragma once

#include "../accesses.h"
#include "../machine.h"

// PyTorch's headers are compiled as host code here: only the kernels see __CUDA_ARCH__.
#include <ATen/OpMathType.h>
#include <c10/core/ScalarType.h>
#include <c10/macros/Macros.h>
#include <c10/util/ArrayRef.h>

#include <cmath>
#include <cstring>
#include <source_location>
#include <tuple>
#include <utility>

#define __CUDA_ARCH__ CUDA_EMULATOR_ARCHITECTURE
#define CUDART_VERSION 13000

#define __global__
#define __grid_constant__
#define __launch_bounds__(...)
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))

using dim3 = cuda_emulator::Index;
using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0 };

struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  cudaStream_t stream;
};

template <typename... parameters_t, typename... arguments_t>
cudaError_t cudaLaunchKernelEx(
    const cudaLaunchConfig_t* config, void (*kernel)(parameters_t...), const arguments_t&... arguments) {
  using call_t = std::pair<void (*)(parameters_t...), std::tuple<parameters_t...>>;
  const call_t call(kernel, {arguments...});
  const cuda_emulator::Region constants("the kernel's arguments", &call, sizeof(call), false);
  const auto enter = [](const void* of) {
    std::apply(static_cast<const call_t*>(of)->first, static_cast<const call_t*>(of)->second);
  };
  cuda_emulator::run_grid(config->gridDim, config->blockDim, enter, &call);
  return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void* to, int byte, size_t bytes, cudaStream_t) {
  std::memset(to, byte, bytes);
  return cudaSuccess;
}

inline const cuda_emulator::Index& threadIdx = cuda_emulator::thread_index;
inline const cuda_emulator::Index& blockIdx = cuda_emulator::block_index;
inline const cuda_emulator::Index& blockDim = cuda_emulator::block_size;
inline const cuda_emulator::Index& gridDim = cuda_emulator::grid_size;

inline int min(int left, int right) {
  return left < right ? left : right;
}
inline long min(long left, long right) {
  return left < right ? left : right;
}

template <typename scalar_t>
scalar_t exchanged(unsigned mask, scalar_t own, unsigned source, std::source_location where) {
  scalar_t other;
  cuda_emulator::exchange(mask, &own, &other, sizeof(scalar_t), source, where);
  return other;
}

template <typename scalar_t>
scalar_t __shfl_sync(
    unsigned mask, scalar_t own, int lane, int width, std::source_location where = std::source_location::current()) {
  return exchanged(mask, own, (cuda_emulator::lane() & -width) | (lane & (width - 1)), where);
}

template <typename scalar_t>
scalar_t __shfl_xor_sync(
    unsigned mask, scalar_t own, int distance, std::source_location where = std::source_location::current()) {
  return exchanged(mask, own, cuda_emulator::lane() ^ distance, where);
}

struct alignas(8) uint2 {
  unsigned x;
  unsigned y;
};

struct alignas(16) uint4 {
  unsigned x;
  unsigned y;
  unsigned z;
  unsigned w;
};

template <typename word_t>
word_t __ldg(const word_t* from) {
  return *from;
}

// Kernels do not use the return value.
inline void atomicAdd(float* to, float term) {
  cuda_emulator::add_atomically<1>(to, &term);
}

inline void atomicAdd(double* to, double term) {
  cuda_emulator::add_atomically<1>(to, &term);
}

#if __CUDA_ARCH__ >= 900
struct alignas(16) float4 {
  float x;
  float y;
  float z;
  float w;
};

inline void atomicAdd(float4* to, float4 terms) {
  cuda_emulator::add_atomically<4>(reinterpret_cast<float*>(to), &terms.x);
}
#endif

#if __CUDA_ARCH__ >= 1000
struct alignas(8) float2 {
  float x;
  float y;
};

// A GPU rounds once, here as in all of its kernels; this rounds as the other kernels do that the compiler compiles.
inline float2 __ffma2_rn(float2 left, float2 right, float2 sum) {
  return {left.x * right.x + sum.x, left.y * right.y + sum.y};
}
#endif
