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

#include <source_location>
#include <tuple>
#include <utility>

#define __CUDA_ARCH__ CUDA_EMULATOR_ARCHITECTURE

#define __global__
#define __device__
#define __host__
#define __shared__
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __forceinline__ inline __attribute__((always_inline))

using dim3 = cuda_emulator::Index;
using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0 };

struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  size_t dynamicSmemBytes;
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
  cuda_emulator::run_grid(config->gridDim, config->blockDim, config->dynamicSmemBytes, enter, &call);
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

inline void __syncthreads(std::source_location where = std::source_location::current()) {
  cuda_emulator::wait_for_block(where);
}

inline void __syncwarp(unsigned mask = 0xFFFFFFFF, std::source_location where = std::source_location::current()) {
  cuda_emulator::wait_for_lanes(mask, where);
}

template <typename scalar_t>
scalar_t __shfl_xor_sync(
    unsigned mask, scalar_t own, int distance, std::source_location where = std::source_location::current()) {
  scalar_t other;
  cuda_emulator::exchange(mask, &own, &other, sizeof(scalar_t), cuda_emulator::lane() ^ distance, where);
  return other;
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

inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}

inline void atomicAdd(float4* to, float4 terms) {
  cuda_emulator::add_atomically<4>(reinterpret_cast<float*>(to), &terms.x);
}
#endif
