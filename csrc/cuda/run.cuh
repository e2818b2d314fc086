// From an operator's addresses to the kernels of sampling.cuh: which instance, how many threads. No tensors, so that
// tests compile all of this for a machine without a GPU.

#pragma once

#include "../core/dtypes.h"
#include "instance.h"
#include "launch.h"
#include "sampling.cuh"

#include <c10/cuda/CUDAException.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <type_traits>

namespace flash_internimage::cuda {

/// Where kernels run.
struct Queue {
  DeviceLimits limits;
  cudaStream_t stream;
};

/// What every operator gives to the kernels beside its points. All contiguous; output and grad_output have value's type.
struct Buffers {
  const void* value; // not read, as grad_output, where no gradient wants it
  void* output; // null in a backward
  const void* grad_output; // null in a forward, as all that follow
  void* grad_value; // zeros of opmath_type to add to, or null where it is not wanted
  bool wants_points; // whether a backward writes the gradients of points
};

template <typename... parameters_t, typename... arguments_t>
void launch(void (*kernel)(parameters_t...), const Launch& plan, cudaStream_t stream, const arguments_t&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(plan.blocks));
  config.blockDim = dim3(static_cast<unsigned>(plan.threads));
  config.dynamicSmemBytes = static_cast<size_t>(plan.shared_bytes);
  config.stream = stream;
  C10_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, arguments...));
}

template <int width, bool is_forward, typename points_t>
void run_width(const points_t& points, const Buffers& buffers, const Queue& queue) {
  using value_t = typename points_t::value_t;
  using acc_t = typename points_t::acc_t;
  using index_t = typename points_t::index_t;
  using sample_t = std::conditional_t<is_forward, Sample<acc_t, index_t>, DifferentiableSample<acc_t, index_t>>;
  // A unit without points still writes its zeros, and the plan divides by their number.
  const int64_t planned_points = std::max<int64_t>(1, points.points);
  const Launch plan =
      plan_launch({points.units, points.channels, width, planned_points, sizeof(sample_t)}, queue.limits);
  const Shares shares = {
      static_cast<int32_t>(plan.lanes), static_cast<int32_t>(plan.units_per_block),
      static_cast<int32_t>(plan.points_per_pass)};
  const auto* const value = static_cast<const value_t*>(buffers.value);
  if constexpr (is_forward) {
    launch(
        forward_kernel<width, points_t>, plan, queue.stream, points, shares, value,
        static_cast<value_t*>(buffers.output));
  } else {
    launch(
        backward_kernel<width, points_t>, plan, queue.stream, points, shares, buffers.wants_points,
        static_cast<const value_t*>(buffers.grad_output), value, static_cast<acc_t*>(buffers.grad_value));
  }
}

/// Launches the forward or backward for `points`, with vectors of channels where all addresses allow them.
template <bool is_forward, typename points_t>
void run(const points_t& points, const Buffers& buffers, const Queue& queue) {
  using value_t = typename points_t::value_t;
  // A gradient that is summed in a wider type is aligned as its allocation, so by more than any vector.
  const bool vectors = allows_vectors(
      points.channels, sizeof(value_t), {buffers.value, buffers.output, buffers.grad_output, buffers.grad_value});
  vectors ? run_width<16 / sizeof(value_t), is_forward>(points, buffers, queue)
          : run_width<1, is_forward>(points, buffers, queue);
}

/// Calls `body` with a zero of the narrowest index type for tensors of these sizes.
template <typename body_t>
void for_index_type(std::initializer_list<int64_t> sizes, const body_t& body) {
  fits_32_bits(sizes) ? body(int32_t()) : body(int64_t());
}

} // namespace flash_internimage::cuda
