// From a call to the kernels of sampling.cuh: which instance, how many threads. No tensors, so that the tests compile
// all of this for an emulated GPU.

#pragma once

#include "../core/dtypes.h"
#include "instance.h"
#include "kernels.h"
#include "launch.h"
#include "sampling.cuh"

#include <c10/cuda/CUDAException.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <type_traits>

namespace flash_internimage::cuda {

template <typename... parameters_t, typename... arguments_t>
void launch(void (*kernel)(parameters_t...), const Launch& plan, cudaStream_t stream, const arguments_t&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(plan.blocks));
  config.blockDim = dim3(static_cast<unsigned>(plan.threads));
  config.dynamicSmemBytes = static_cast<size_t>(plan.shared_bytes);
  config.stream = stream;
  C10_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, arguments...));
}

/// Plans and launches the instance that reads `width` channels at a time.
template <int width, bool is_forward, typename problem_t, typename op_t>
void run_width(const problem_t& problem, const Call<op_t>& call, const Queue& queue) {
  using value_t = typename problem_t::value_t;
  using acc_t = typename problem_t::acc_t;
  using index_t = typename problem_t::index_t;
  using sample_t = std::conditional_t<is_forward, Sample<acc_t, index_t>, DifferentiableSample<acc_t, index_t>>;
  // A unit without points still writes its zeros, and the plan divides by their number.
  const int64_t planned_points = std::max<int64_t>(1, problem.points);
  const Launch plan =
      plan_launch({problem.units, problem.channels, width, planned_points, sizeof(sample_t)}, queue.limits);
  const Shares shares = {
      static_cast<int32_t>(plan.lanes), static_cast<int32_t>(plan.units_per_block),
      static_cast<int32_t>(plan.points_per_pass)};
  const auto* const value = static_cast<const value_t*>(call.value);
  if constexpr (is_forward) {
    launch(
        forward_kernel<width, problem_t>, plan, queue.stream, problem, shares, value,
        static_cast<value_t*>(call.output));
  } else {
    launch(
        backward_kernel<width, problem_t>, plan, queue.stream, problem, shares, call.needs_grad_points(),
        static_cast<const value_t*>(call.grad_output), value, static_cast<acc_t*>(call.grad_value));
  }
}

/// Launches the forward or backward with indices of type `index_t`, and vectors of channels if all addresses allow
/// them.
template <bool is_forward, typename index_t, typename op_t>
void run_indexed(const Call<op_t>& call, const Queue& queue) {
  for_dtypes(call.value_dtype, call.points_dtype, [&](auto dtypes) {
    using problem_t = Problem<op_t, decltype(dtypes), index_t>;
    using value_t = typename problem_t::value_t;
    using points_t = typename problem_t::points_t;
    const auto& geometry = call.geometry;
    problem_t problem = {
        geometry.batch * geometry.outputs * geometry.groups,
        geometry.group_points,
        geometry.group_channels,
        static_cast<index_t>(geometry.channels()),
        geometry,
        {},
        {}};
    for (size_t i = 0; i < problem_t::kPointTensors; ++i) {
      problem.point_tensors[i] = static_cast<const points_t*>(call.points[i]);
      problem.grad_point_tensors[i] = static_cast<points_t*>(call.grad_points[i]);
    }
    // A gradient that is summed in a wider type is aligned as its allocation, so by more than any vector.
    const bool vectors = allows_vectors(
        geometry.group_channels, sizeof(value_t), {call.value, call.output, call.grad_output, call.grad_value});
    vectors ? run_width<16 / sizeof(value_t), is_forward>(problem, call, queue)
            : run_width<1, is_forward>(problem, call, queue);
  });
}

/// The same with the narrowest index type that reaches all elements.
template <bool is_forward, typename op_t>
void run(const Call<op_t>& call, const Queue& queue) {
  const auto& geometry = call.geometry;
  const int64_t outputs = geometry.batch * geometry.outputs;
  const bool narrow = fits_32_bits(
      {geometry.batch * geometry.input_cells * geometry.channels(), outputs * geometry.channels(),
       outputs * geometry.point_elements()});
  narrow ? run_indexed<is_forward, int32_t>(call, queue) : run_indexed<is_forward, int64_t>(call, queue);
}

template <typename op_t>
void Kernels<op_t>::forward(const Call<op_t>& call, const Queue& queue) {
  run<true>(call, queue);
}

template <typename op_t>
void Kernels<op_t>::backward(const Call<op_t>& call, const Queue& queue) {
  run<false>(call, queue);
}

} // namespace flash_internimage::cuda
