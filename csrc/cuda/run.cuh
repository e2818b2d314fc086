// From an operator's tensors to the kernels of sampling.cuh: which instance, how many threads, on which stream.

#pragma once

#include "device.h"
#include "launch.h"
#include "sampling.cuh"

#include <ATen/OpMathType.h>
#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>

#include <algorithm>
#include <type_traits>

namespace flash_internimage::cuda {

/// What every operator gives to the kernels beside its points.
struct Buffers {
  at::Tensor value; // contiguous, as output
  at::Tensor output; // or, in a backward, its gradient
  void* grad_value; // of opmath_type; null in a forward, or where it is not wanted
  bool wants_points; // whether a backward writes the gradients of points
};

template <int width, bool is_forward, typename points_t>
void launch(const points_t& points, const Buffers& buffers) {
  using value_t = typename points_t::value_t;
  using acc_t = typename points_t::acc_t;
  using index_t = typename points_t::index_t;
  using sample_t = std::conditional_t<is_forward, Sample<acc_t, index_t>, DifferentiableSample<acc_t, index_t>>;
  // A unit without points still writes its zeros, and the plan divides by their number.
  const int64_t planned_points = std::max<int64_t>(1, points.points);
  const Launch plan =
      plan_launch({points.units, points.channels, width, planned_points, sizeof(sample_t)}, device_limits());
  const Shares shares = {
      static_cast<int32_t>(plan.lanes), static_cast<int32_t>(plan.units_per_block),
      static_cast<int32_t>(plan.points_per_pass)};
  const cudaStream_t stream = at::cuda::getCurrentCUDAStream();
  if constexpr (is_forward) {
    forward_kernel<width, points_t><<<plan.blocks, plan.threads, plan.shared_bytes, stream>>>(
        points, shares, buffers.value.const_data_ptr<value_t>(), buffers.output.mutable_data_ptr<value_t>());
  } else {
    backward_kernel<width, points_t><<<plan.blocks, plan.threads, plan.shared_bytes, stream>>>(
        points, shares, buffers.wants_points, buffers.output.const_data_ptr<value_t>(),
        buffers.value.const_data_ptr<value_t>(), static_cast<acc_t*>(buffers.grad_value));
  }
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

/// Launches the forward or backward for `points`, with vectors of channels where all addresses allow them.
template <bool is_forward, typename points_t>
void run(const points_t& points, const Buffers& buffers) {
  using value_t = typename points_t::value_t;
  // A gradient that is summed in a wider type is aligned as its allocation, so by more than any vector.
  const bool vectors = allows_vectors(
      points.channels, sizeof(value_t),
      {buffers.value.const_data_ptr(), buffers.output.const_data_ptr(), buffers.grad_value});
  vectors ? launch<16 / sizeof(value_t), is_forward>(points, buffers) : launch<1, is_forward>(points, buffers);
}

/// Calls `body` with a zero of the values' type and one of the points' type. Which go together is checked before.
template <typename body_t>
void for_dtypes(at::ScalarType value_dtype, at::ScalarType points_dtype, const body_t& body) {
  const bool wide_points = points_dtype == at::kFloat;
  switch (value_dtype) {
    case at::kDouble:
      return body(double(), double());
    case at::kFloat:
      return body(float(), float());
    case at::kBFloat16:
      return wide_points ? body(at::BFloat16(), float()) : body(at::BFloat16(), at::BFloat16());
    default:
      return wide_points ? body(at::Half(), float()) : body(at::Half(), at::Half());
  }
}

/// Calls `body` with a zero of the narrowest index type for tensors of these sizes.
template <typename body_t>
void for_index_type(std::initializer_list<int64_t> sizes, const body_t& body) {
  fits_32_bits(sizes) ? body(int32_t()) : body(int64_t());
}

} // namespace flash_internimage::cuda
