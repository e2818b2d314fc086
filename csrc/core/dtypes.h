// The dtypes that kernels are instantiated for, on the CPU and on a GPU.

#pragma once

#include <c10/core/ScalarType.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

namespace flash_internimage {

/// The dtype of value, that of the point tensors, and the one in which kernels compute.
template <typename value_type, typename points_type, typename acc_type>
struct Dtypes {
  using value_t = value_type;
  using points_t = points_type;
  using acc_t = acc_type;
};

/// Calls `body(Dtypes<...>{})`. The operator's `check` has refused other combinations of dtypes.
template <typename body_t>
void for_dtypes(c10::ScalarType values, c10::ScalarType points, const body_t& body) {
  const bool wide_points = points == c10::kFloat;
  switch (values) {
    case c10::kDouble:
      return body(Dtypes<double, double, double>{});
    case c10::kFloat:
      return body(Dtypes<float, float, float>{});
    case c10::kBFloat16:
      return wide_points ? body(Dtypes<c10::BFloat16, float, float>{})
                         : body(Dtypes<c10::BFloat16, c10::BFloat16, float>{});
    default:
      return wide_points ? body(Dtypes<c10::Half, float, float>{}) : body(Dtypes<c10::Half, c10::Half, float>{});
  }
}

} // namespace flash_internimage
