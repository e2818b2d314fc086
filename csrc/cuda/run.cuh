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

#include <cstddef>
#include <cstdint>

namespace flash_internimage::cuda {

template <typename... parameters_t, typename... arguments_t>
void launch(void (*kernel)(parameters_t...), const Launch& plan, cudaStream_t stream, const arguments_t&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(plan.blocks));
  config.blockDim = dim3(static_cast<unsigned>(plan.threads));
  config.stream = stream;
  C10_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, arguments...));
}

/// The channels that a lane processes at once where addresses allow vectors. A forward has registers for sums of 32
/// bytes, in words of 16. In a backward, what a lane adds to the gradient of value is a vector of one atomic addition.
template <bool is_forward, typename acc_t>
constexpr int wide_width() {
  return is_forward ? 32 / sizeof(acc_t) : sizeof(acc_t) == sizeof(float) ? 4 : 1;
}

template <bool is_forward, int width, int fixed_lanes, int fixed_points, typename problem_t, typename op_t>
void run_instance(const problem_t& problem, const Launch& plan, const Call<op_t>& call, const Queue& queue) {
  using value_t = typename problem_t::value_t;
  using acc_t = typename problem_t::acc_t;
  const auto* const value = static_cast<const value_t*>(call.value);
  if constexpr (is_forward) {
    launch(
        forward_kernel<width, fixed_lanes, fixed_points, problem_t>, plan, queue.stream, problem, value,
        static_cast<value_t*>(call.output));
  } else {
    launch(
        backward_kernel<width, fixed_lanes, problem_t>, plan, queue.stream, problem, call.needs_grad_points(),
        static_cast<const value_t*>(call.grad_output), value, static_cast<acc_t*>(call.grad_value));
  }
}

/// Plans and launches an instance that processes `width` channels at a time. There are
/// specialized instances for the operator's usual number of channels, with float32 sums and 32-bit indices; a forward
/// also has one for its usual number of points.
template <bool is_forward, int width, typename problem_t, typename op_t>
void run_width(problem_t problem, const Call<op_t>& call, const Queue& queue) {
  const Launch plan = plan_launch({problem.units, problem.channels, width}, queue.limits);
  problem.lanes = static_cast<int32_t>(plan.lanes);
  constexpr bool is_usual = sizeof(typename problem_t::acc_t) == sizeof(float) &&
      sizeof(typename problem_t::index_t) == sizeof(int32_t) && (width > 1 || !is_forward);
  if constexpr (is_usual) {
    if (problem.channels == op_t::kUsualChannels) {
      constexpr int lanes = op_t::kUsualChannels / width;
      if constexpr (is_forward && op_t::kUsualPoints > 0) {
        if (problem.points == op_t::kUsualPoints) {
          return run_instance<is_forward, width, lanes, op_t::kUsualPoints>(problem, plan, call, queue);
        }
      }
      return run_instance<is_forward, width, lanes, 0>(problem, plan, call, queue);
    }
  }
  run_instance<is_forward, width, 0, 0>(problem, plan, call, queue);
}

/// Launches the forward or backward with indices of type `index_t`. 64-bit indices are so rare that they have instances
/// for one channel at a time only.
template <bool is_forward, typename index_t, typename op_t>
void run_indexed(const Call<op_t>& call, const Queue& queue) {
  for_dtypes(call.value_dtype, call.points_dtype, [&](auto dtypes) {
    using problem_t = Problem<op_t, decltype(dtypes), index_t>;
    using value_t = typename problem_t::value_t;
    using acc_t = typename problem_t::acc_t;
    const auto& geometry = call.geometry;
    if (is_forward && geometry.group_points == 0) {
      const size_t bytes = geometry.batch * geometry.outputs * geometry.channels() * sizeof(value_t);
      C10_CUDA_CHECK(cudaMemsetAsync(call.output, 0, bytes, queue.stream));
      return;
    }
    const problem_t problem = {
        static_cast<index_t>(geometry.batch * geometry.outputs * geometry.groups),
        0, // lanes
        geometry.group_points,
        geometry.group_channels,
        static_cast<index_t>(geometry.channels()),
        typename problem_t::points_t(call)};
    constexpr int wide = wide_width<is_forward, acc_t>();
    if constexpr (wide > 1 && sizeof(index_t) == sizeof(int32_t)) {
      // The address of grad_value need not be checked: it is a newly allocated buffer, or null.
      if ((is_forward || queue.limits.vector_atomics) &&
          allows_vectors(
              geometry.group_channels, wide, Channels<value_t, wide>::kWordBytes,
              {call.value, call.output, call.grad_output})) {
        return run_width<is_forward, wide>(problem, call, queue);
      }
    }
    run_width<is_forward, 1>(problem, call, queue);
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
