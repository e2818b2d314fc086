// Restricts a program to some dtypes, because each takes seconds to compile: -DSOME_DTYPES='Dtypes<float, float,
// float>, ...' lists them. Included before everything else.

#pragma once

#include "core/dtypes.h"

#include <stdexcept>

namespace flash_internimage {

template <typename... dtypes_t>
struct DtypesList {
  template <typename body_t>
  static void choose(c10::ScalarType values, c10::ScalarType points, const body_t& body) {
    const bool found = ((try_one<dtypes_t>(values, points, body)) || ...);
    if (!found) {
      throw std::runtime_error("this program is compiled for other dtypes");
    }
  }

 private:
  template <typename chosen_t, typename body_t>
  static bool try_one(c10::ScalarType values, c10::ScalarType points, const body_t& body) {
    if (values != c10::CppTypeToScalarType<typename chosen_t::value_t>::value ||
        points != c10::CppTypeToScalarType<typename chosen_t::points_t>::value) {
      return false;
    }
    body(chosen_t{});
    return true;
  }
};

} // namespace flash_internimage

#define for_dtypes DtypesList<SOME_DTYPES>::choose
