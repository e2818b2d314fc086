#include "../cuda/run.cuh"
#include "ms_deform_attn.h"
#include "ms_deform_attn_points.cuh"

#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

namespace flash_internimage::ms_deform_attn {

namespace {

/// The tensors that say where points lie, and their gradients: undefined in a forward, or where they are not wanted.
struct PointTensors {
  at::Tensor sampling_locations; // contiguous, as all of these
  at::Tensor attention_weights;
  at::Tensor grad_sampling_locations;
  at::Tensor grad_attention_weights;
};

template <bool is_forward>
void run(const Geometry& geometry, const PointTensors& tensors, const cuda::Buffers& buffers) {
  cuda::for_dtypes(
      buffers.value.scalar_type(), tensors.sampling_locations.scalar_type(), [&](auto value_zero, auto location_zero) {
        using value_t = decltype(value_zero);
        using location_t = decltype(location_zero);
        const auto gradient = [](const at::Tensor& tensor) {
          return tensor.defined() ? tensor.mutable_data_ptr<location_t>() : nullptr;
        };
        cuda::for_index_type(
            {buffers.value.numel(), tensors.sampling_locations.numel(), buffers.output.numel()}, [&](auto index_zero) {
              using index_t = decltype(index_zero);
              const Points<value_t, location_t, at::opmath_type<value_t>, index_t> points = {
                  geometry.batch * geometry.queries * geometry.heads,
                  geometry.head_points(),
                  geometry.head_channels,
                  static_cast<index_t>(geometry.channels()),
                  geometry,
                  tensors.sampling_locations.const_data_ptr<location_t>(),
                  tensors.attention_weights.const_data_ptr<location_t>(),
                  gradient(tensors.grad_sampling_locations),
                  gradient(tensors.grad_attention_weights)};
              cuda::run<is_forward>(points, buffers);
            });
      });
}

at::Tensor forward_cuda(
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  const Geometry geometry = check(value, spatial_shapes, sampling_locations, attention_weights);
  const c10::cuda::CUDAGuard guard(value.device());
  const at::Tensor output = at::empty({geometry.batch, geometry.queries, geometry.channels()}, value.options());
  if (output.numel() > 0) {
    run<true>(
        geometry, {sampling_locations.contiguous(), attention_weights.contiguous(), {}, {}},
        {value.contiguous(), output, nullptr, false});
  }
  return output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_cuda(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights,
    bool needs_grad_value,
    bool needs_grad_sampling_locations,
    bool needs_grad_attention_weights) {
  const Geometry geometry = check(value, spatial_shapes, sampling_locations, attention_weights);
  check_grad_output(grad_output, value, geometry);
  if (needs_grad_value) {
    at::globalContext().alertNotDeterministic("ms_deform_attn_backward_cuda");
  }
  const c10::cuda::CUDAGuard guard(value.device());
  // Written by the kernel, which does not run where there are no channels.
  const auto gradient = [](bool needed, const at::Tensor& of) {
    return needed ? at::zeros(of.sizes(), of.options()) : at::Tensor();
  };
  const at::Tensor grad_locations = gradient(needs_grad_sampling_locations, sampling_locations);
  const at::Tensor grad_weights = gradient(needs_grad_attention_weights, attention_weights);
  const at::Tensor grad_sum = needs_grad_value
      ? at::zeros(value.sizes(), value.options().dtype(at::toOpMathType(value.scalar_type())))
      : at::Tensor();
  const bool wants_points = needs_grad_sampling_locations || needs_grad_attention_weights;
  if (grad_output.numel() > 0 && geometry.head_points() > 0 && (needs_grad_value || wants_points)) {
    run<false>(
        geometry, {sampling_locations.contiguous(), attention_weights.contiguous(), grad_locations, grad_weights},
        {wants_points ? value.contiguous() : value, grad_output.contiguous(),
         needs_grad_value ? grad_sum.data_ptr() : nullptr, wants_points});
  }
  const auto or_empty = [](const at::Tensor& gradient_or_none, const at::Tensor& of) {
    return gradient_or_none.defined() ? gradient_or_none.to(of.scalar_type()) : at::empty({0}, of.options());
  };
  return {
      or_empty(grad_sum, value), or_empty(grad_locations, sampling_locations),
      or_empty(grad_weights, attention_weights)};
}

} // namespace

TORCH_LIBRARY_IMPL(flash_internimage, CUDA, library) {
  library.impl("ms_deform_attn", &forward_cuda);
  library.impl("ms_deform_attn_backward", &backward_cuda);
}

} // namespace flash_internimage::ms_deform_attn
