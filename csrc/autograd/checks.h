// Checks that every operator makes of its tensors.

#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <limits>

namespace flash_internimage::autograd {

constexpr int64_t kMaximum = std::numeric_limits<int32_t>::max();

inline void check_value_dtype(const char* op, const at::Tensor& value) {
  const auto dtype = value.scalar_type();
  TORCH_CHECK_VALUE(
      dtype == at::kFloat || dtype == at::kDouble || dtype == at::kHalf || dtype == at::kBFloat16, op,
      ": value needs the dtype float32, float64, float16 or bfloat16, got ", dtype);
}

/// Checks dtype and device of the point tensor `points`, called `name`.
inline void check_points(const char* op, const char* name, const at::Tensor& points, const at::Tensor& value) {
  const auto dtype = value.scalar_type();
  const bool low_precision = dtype == at::kHalf || dtype == at::kBFloat16;
  TORCH_CHECK_VALUE(
      points.scalar_type() == dtype || (low_precision && points.scalar_type() == at::kFloat), op, ": ", name,
      " needs the dtype of value, ", dtype, (low_precision ? ", or Float" : ""), ", got ", points.scalar_type());
  TORCH_CHECK_VALUE(
      points.device() == value.device(), op, ": ", name, " needs the device of value, ", value.device(), ", got ",
      points.device());
}

inline void check_grad_output(
    const char* op, const at::Tensor& grad_output, const at::Tensor& value, at::IntArrayRef output_shape) {
  TORCH_CHECK_VALUE(
      grad_output.sizes() == output_shape && grad_output.scalar_type() == value.scalar_type() &&
          grad_output.device() == value.device(),
      op, ": grad_output needs the shape ", output_shape, ", dtype ", value.scalar_type(), " and device ",
      value.device(), " of the output, got ", grad_output.sizes(), ", ", grad_output.scalar_type(), " and ",
      grad_output.device());
}

} // namespace flash_internimage::autograd
