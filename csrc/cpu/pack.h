// A few contiguous channels in vector registers, converted from their dtype to acc_t.
//
// Written with the compilers' vector types, so that one source serves every instruction set. Include after isa_*.h,
// which defines the width of registers.

#include <c10/macros/Macros.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

/// For lambdas in inner loops, which compilers otherwise inline or not depending on what else the file contains.
#define FLASH_INTERNIMAGE_INLINE __attribute__((always_inline))

namespace flash_internimage::FLASH_INTERNIMAGE_ISA {

template <typename scalar_t, int lanes>
struct Lanes {
  typedef scalar_t type __attribute__((vector_size(lanes * sizeof(scalar_t))));
};

template <typename scalar_t, int lanes>
using lanes_t = typename Lanes<scalar_t, lanes>::type;

/// Converts float16 bits to float32: shifts exponent and mantissa into place and multiplies by the ratio of the
/// exponent biases. The product is exact and normalizes subnormal numbers. Infinity and NaN get the largest exponent.
template <int lanes>
C10_ALWAYS_INLINE lanes_t<float, lanes> widen_half(lanes_t<uint16_t, lanes> bits) {
  using words_t = lanes_t<uint32_t, lanes>;
  const words_t wide = __builtin_convertvector(bits, words_t);
  const words_t magnitude = (wide & 0x7FFF) << 13;
  const words_t scaled = (words_t)((lanes_t<float, lanes>)magnitude * 0x1p112f);
  const words_t special = (words_t)(magnitude >= (0x7C00u << 13)) & 0x7F800000u;
  return (lanes_t<float, lanes>)(scaled | special | (wide & 0x8000) << 16);
}

template <typename acc_t, int lanes, typename scalar_t>
C10_ALWAYS_INLINE lanes_t<acc_t, lanes> load_lanes(const scalar_t* from) {
  if constexpr (std::is_same_v<scalar_t, acc_t>) {
    lanes_t<acc_t, lanes> loaded;
    std::memcpy(&loaded, from, sizeof(loaded));
    return loaded;
  } else {
    lanes_t<uint16_t, lanes> bits;
    std::memcpy(&bits, from, sizeof(bits));
    if constexpr (std::is_same_v<scalar_t, c10::BFloat16>) {
      return (lanes_t<float, lanes>)(__builtin_convertvector(bits, lanes_t<uint32_t, lanes>) << 16);
    } else {
      static_assert(std::is_same_v<scalar_t, c10::Half>);
#ifdef FLASH_INTERNIMAGE_F16C
      if constexpr (lanes == 8) {
        return (lanes_t<float, lanes>)_mm256_cvtph_ps((__m128i)bits);
      }
#endif
      return widen_half<lanes>(bits);
    }
  }
}

/// Rounds float32 to bfloat16 in the upper half of each word; the lower half is undefined. Rounds to nearest even by
/// adding half of the last kept bit, or just under half if that bit is even.
template <int lanes>
C10_ALWAYS_INLINE lanes_t<uint32_t, lanes> round_bfloat16(lanes_t<float, lanes> lane_values) {
  using words_t = lanes_t<uint32_t, lanes>;
  const words_t bits = (words_t)lane_values;
  const words_t rounded = bits + 0x7FFF + ((bits >> 16) & 1);
  const words_t is_nan = (words_t)(lane_values != lane_values);
  return (rounded & ~is_nan) | (is_nan & 0x7FC00000);
}

template <int lanes, typename acc_t, typename scalar_t>
C10_ALWAYS_INLINE void store_lanes(scalar_t* to, lanes_t<acc_t, lanes> lane_values) {
  if constexpr (std::is_same_v<scalar_t, acc_t>) {
    std::memcpy(to, &lane_values, sizeof(lane_values));
  } else if constexpr (std::is_same_v<scalar_t, c10::BFloat16>) {
    const auto narrow = __builtin_convertvector(round_bfloat16<lanes>(lane_values) >> 16, lanes_t<uint16_t, lanes>);
    std::memcpy(to, &narrow, sizeof(narrow));
  } else {
#ifdef FLASH_INTERNIMAGE_F16C
    if constexpr (lanes == 8) {
      const __m128i narrow = _mm256_cvtps_ph((__m256)lane_values, _MM_FROUND_TO_NEAREST_INT);
      std::memcpy(to, &narrow, sizeof(narrow));
      return;
    }
#endif
    for (int lane = 0; lane < lanes; ++lane) {
      to[lane] = static_cast<scalar_t>(lane_values[lane]);
    }
  }
}

/// Selects lanes of two registers by number; those of `b` follow those of `a`. GCC and Clang name the builtin
/// differently.
template <int... chosen, typename lanes_type>
C10_ALWAYS_INLINE lanes_type shuffle(lanes_type a, lanes_type b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, chosen...);
#else
  using index_t = std::conditional_t<sizeof(a[0]) == sizeof(int32_t), int32_t, int64_t>;
  return __builtin_shuffle(a, b, lanes_t<index_t, sizeof...(chosen)>{chosen...});
#endif
}

template <int offset, typename lanes_type, int... i>
C10_ALWAYS_INLINE lanes_type every_second(lanes_type a, lanes_type b, std::integer_sequence<int, i...>) {
  return shuffle<(2 * i + offset)...>(a, b);
}

template <int lanes, typename lanes_type>
C10_ALWAYS_INLINE lanes_type even_lanes(lanes_type a, lanes_type b) {
  return every_second<0>(a, b, std::make_integer_sequence<int, lanes>{});
}

template <int lanes, typename lanes_type>
C10_ALWAYS_INLINE lanes_type odd_lanes(lanes_type a, lanes_type b) {
  return every_second<1>(a, b, std::make_integer_sequence<int, lanes>{});
}

/// Horizontal sums: adds the sum of the lanes of each of four registers to `to`. Four together need fewer instructions
/// than four one after the other, because each addition fills whole registers.
template <typename acc_t, int lanes>
C10_ALWAYS_INLINE void add_sums(const lanes_t<acc_t, lanes> (&all)[4], acc_t* to) {
  if constexpr (lanes == 1) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      to[i] += all[i][0];
    }
  } else if constexpr (lanes == 4) {
    const auto first = shuffle<0, 4, 1, 5>(all[0], all[1]) + shuffle<2, 6, 3, 7>(all[0], all[1]);
    const auto second = shuffle<0, 4, 1, 5>(all[2], all[3]) + shuffle<2, 6, 3, 7>(all[2], all[3]);
    const auto sums = shuffle<0, 1, 4, 5>(first, second) + shuffle<2, 3, 6, 7>(first, second);
    store_lanes<4, acc_t>(to, load_lanes<acc_t, 4>(to) + sums);
  } else {
    lanes_t<acc_t, lanes / 2> sums[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      lanes_t<acc_t, lanes / 2> halves[2];
      std::memcpy(halves, &all[i], sizeof(all[i]));
      sums[i] = halves[0] + halves[1];
    }
    add_sums<acc_t, lanes / 2>(sums, to);
  }
}

/// `width` channels: a power of two.
template <typename acc_t, int width>
struct Pack {
  static constexpr int kRegister = FLASH_INTERNIMAGE_VECTOR_BYTES / sizeof(acc_t);
  static constexpr int kLanes = width < kRegister ? width : kRegister;
  static constexpr int kParts = width / kLanes;
  /// Whether `load_any_order` fills two registers at a time, with the first and the second number of each stored pair.
  template <typename scalar_t>
  static constexpr bool kTakesPairs = std::is_same_v<scalar_t, c10::BFloat16> && std::is_same_v<acc_t, float> &&
      kParts % 2 == 0 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;

  lanes_t<acc_t, kLanes> parts[kParts];

  C10_ALWAYS_INLINE static Pack zero() {
    Pack pack;
#pragma GCC unroll 16
    for (auto& part : pack.parts) {
      part = lanes_t<acc_t, kLanes>{};
    }
    return pack;
  }

  template <typename scalar_t>
  C10_ALWAYS_INLINE static Pack load(const scalar_t* from) {
    Pack pack;
#pragma GCC unroll 16
    for (int part = 0; part < kParts; ++part) {
      pack.parts[part] = load_lanes<acc_t, kLanes>(from + part * kLanes);
    }
    return pack;
  }

  template <typename scalar_t>
  C10_ALWAYS_INLINE void store(scalar_t* to) const {
#pragma GCC unroll 16
    for (int part = 0; part < kParts; ++part) {
      store_lanes<kLanes, acc_t>(to + part * kLanes, parts[part]);
    }
  }

  /// As `load`, but in the order of channels that is fastest to load, which depends on the dtype only;
  /// `store_any_order` restores the order. Of each pair of bfloat16 numbers, the one in the upper half of a word is a
  /// float32 once the lower half is cleared.
  template <typename scalar_t>
  C10_ALWAYS_INLINE static Pack load_any_order(const scalar_t* from) {
    if constexpr (kTakesPairs<scalar_t>) {
      using words_t = lanes_t<uint32_t, kLanes>;
      Pack pack;
#pragma GCC unroll 16
      for (int part = 0; part < kParts; part += 2) {
        words_t pairs;
        std::memcpy(&pairs, from + part * kLanes, sizeof(pairs));
        pack.parts[part] = (lanes_t<float, kLanes>)(pairs << 16);
        pack.parts[part + 1] = (lanes_t<float, kLanes>)(pairs & 0xFFFF0000);
      }
      return pack;
    } else {
      return load(from);
    }
  }

  template <typename scalar_t>
  C10_ALWAYS_INLINE void store_any_order(scalar_t* to) const {
    if constexpr (kTakesPairs<scalar_t>) {
      using words_t = lanes_t<uint32_t, kLanes>;
#pragma GCC unroll 16
      for (int part = 0; part < kParts; part += 2) {
        const words_t pairs =
            (round_bfloat16<kLanes>(parts[part]) >> 16) | (round_bfloat16<kLanes>(parts[part + 1]) & 0xFFFF0000);
        std::memcpy(to + part * kLanes, &pairs, sizeof(pairs));
      }
    } else {
      store(to);
    }
  }

  /// this += weight * other
  C10_ALWAYS_INLINE void add(acc_t weight, const Pack& other) {
#pragma GCC unroll 16
    for (int part = 0; part < kParts; ++part) {
      parts[part] += weight * other.parts[part];
    }
  }

  /// The products of two packs, summed over registers but not over lanes.
  C10_ALWAYS_INLINE lanes_t<acc_t, kLanes> multiply(const Pack& other) const {
    lanes_t<acc_t, kLanes> products = parts[0] * other.parts[0];
#pragma GCC unroll 16
    for (int part = 1; part < kParts; ++part) {
      products += parts[part] * other.parts[part];
    }
    return products;
  }
};

constexpr int kWidestPack = 16;

/// Covers the channels from `first` on with packs, widest first: calls `body(std::integral_constant<int, width>{},
/// first)` for each.
template <int widest = kWidestPack, typename body_t>
C10_ALWAYS_INLINE void for_each_pack(int64_t channels, const body_t& body, int64_t first = 0) {
  for (; first + widest <= channels; first += widest) {
    body(std::integral_constant<int, widest>{}, first);
  }
  if constexpr (widest > 1) {
    for_each_pack<widest / 2>(channels, body, first);
  }
}

} // namespace flash_internimage::FLASH_INTERNIMAGE_ISA
