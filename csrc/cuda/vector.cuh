// The channels that a thread reads and writes at once, and sums over the threads of a unit.

#pragma once

#include <c10/util/BFloat16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace flash_internimage::cuda {

constexpr unsigned kWholeWarp = 0xFFFFFFFF;

/// Prevents rematerialization: the number stays in a register, instead of being computed again for each use in a loop.
template <typename number_t>
__device__ __forceinline__ number_t kept(number_t number) {
#ifdef __CUDACC__
  if constexpr (sizeof(number_t) == 4) {
    asm("" : "+r"(number));
  } else {
    asm("" : "+l"(number));
  }
#endif
  return number;
}

/// Prevents the rematerialization of an address in global memory.
template <typename scalar_t>
__device__ __forceinline__ scalar_t* kept(scalar_t* address) {
#ifdef __CUDACC__
  asm("" : "+l"(address));
  __builtin_assume(__isGlobal(address));
#endif
  return address;
}

/// An unsigned integer of that many bytes, or a vector of them that one instruction reads.
template <int bytes>
struct Word;
template <>
struct Word<2> {
  using type = unsigned short;
};
template <>
struct Word<4> {
  using type = unsigned int;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<16> {
  using type = uint4;
};

/// `width` channels, zero at first, in words of at most 16 bytes that lie `distance` channels apart in memory. Addresses
/// have to be multiples of a word.
template <typename scalar_t, int width>
class Channels {
 public:
  static constexpr int kWordBytes = width * sizeof(scalar_t) < 16 ? width * sizeof(scalar_t) : 16;
  static constexpr int kPerWord = kWordBytes / sizeof(scalar_t);
  static constexpr int kWords = width / kPerWord;

  __device__ __forceinline__ void load(const scalar_t* from, int distance) {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const word_t word = __ldg(reinterpret_cast<const word_t*>(from + i * distance));
      std::memcpy(scalars_ + i * kPerWord, &word, kWordBytes);
    }
  }

  /// Whole words: the compiler would store a struct of small numbers one by one.
  __device__ __forceinline__ void store(scalar_t* to, int distance) const {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      word_t word;
      std::memcpy(&word, scalars_ + i * kPerWord, kWordBytes);
      *reinterpret_cast<word_t*>(to + i * distance) = word;
    }
  }

  /// A channel as a number of type `acc_t`.
  template <typename acc_t>
  __device__ __forceinline__ acc_t get(int i) const {
    if constexpr (std::is_same_v<scalar_t, c10::BFloat16> && width % 2 == 0) {
      // A bfloat16 is the upper half of a float. One instruction takes it from a word; a conversion would need two.
      uint32_t bits;
      std::memcpy(&bits, scalars_ + i / 2 * 2, sizeof(bits));
      bits = i % 2 == 0 ? bits << 16 : bits & 0xFFFF0000;
      acc_t number;
      std::memcpy(&number, &bits, sizeof(bits));
      return number;
    } else {
      return static_cast<acc_t>(scalars_[i]);
    }
  }
  __device__ __forceinline__ scalar_t& operator[](int i) {
    return scalars_[i];
  }

 private:
  using word_t = typename Word<kWordBytes>::type;
  alignas(kWordBytes) scalar_t scalars_[width] = {};
};

/// sum[i] += weight * terms[i].
template <int width, typename acc_t, typename scalar_t>
__device__ __forceinline__ void add_products(
    acc_t (&sum)[width], acc_t weight, const Channels<scalar_t, width>& terms) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000 && CUDART_VERSION >= 13000
  // Compute capability 10 has an instruction that adds two products.
  if constexpr (width % 2 == 0 && sizeof(acc_t) == sizeof(float)) {
#pragma unroll
    for (int i = 0; i < width; i += 2) {
      const float2 pair = {terms.template get<float>(i), terms.template get<float>(i + 1)};
      const float2 sums = __ffma2_rn(float2{weight, weight}, pair, float2{sum[i], sum[i + 1]});
      sum[i] = sums.x;
      sum[i + 1] = sums.y;
    }
  } else
#endif
  {
#pragma unroll
    for (int i = 0; i < width; ++i) {
      sum[i] += weight * terms.template get<acc_t>(i);
    }
  }
}

/// to[i] += weight * from[i], while other threads may add to the same elements.
template <int width, typename acc_t>
__device__ __forceinline__ void add_atomically(acc_t weight, const acc_t (&from)[width], acc_t* to) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  // Compute capability 9 has vector atomics: four floats in one transaction.
  if constexpr (width == 4 && sizeof(acc_t) == sizeof(float)) {
    const float4 terms = {weight * from[0], weight * from[1], weight * from[2], weight * from[3]};
    atomicAdd(reinterpret_cast<float4*>(to), terms);
  } else
#endif
  {
#pragma unroll
    for (int i = 0; i < width; ++i) {
      atomicAdd(to + i, weight * from[i]);
    }
  }
}

/// Replaces each number by its sum over every group of `lanes` consecutive threads of a warp. All threads of the warp
/// must call it.
template <int count, typename acc_t>
__device__ __forceinline__ void sum_over_lanes(acc_t (&numbers)[count], int lanes) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (int i = 0; i < count; ++i) {
      numbers[i] += __shfl_xor_sync(kWholeWarp, numbers[i], distance);
    }
  }
}

} // namespace flash_internimage::cuda
