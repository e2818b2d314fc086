#include "../cuda/device.cuh"
#include "ms_deform_attn.h"
#include "ms_deform_attn_cuda_kernel.cuh"

#include <ATen/Context.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

namespace flash_internimage::ms_deform_attn {

namespace {

at::Tensor forward_cuda(
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  const Geometry geometry = check(value, spatial_shapes, sampling_locations, attention_weights);
  const c10::cuda::CUDAGuard guard(value.device());
  const at::Tensor output = at::empty({geometry.batch, geometry.queries, geometry.channels()}, value.options());
  if (output.numel() > 0) {
    const at::Tensor value_cells = value.contiguous();
    const at::Tensor locations = sampling_locations.contiguous();
    const at::Tensor weights = attention_weights.contiguous();
    run_cuda<true>(
        {geometry,
         value.scalar_type(),
         locations.scalar_type(),
         locations.const_data_ptr(),
         weights.const_data_ptr(),
         nullptr,
         nullptr,
         {value_cells.const_data_ptr(), output.mutable_data_ptr(), nullptr, nullptr, false}},
        cuda::current_queue());
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
    const auto address = [](const at::Tensor& tensor) {
      return tensor.defined() ? tensor.mutable_data_ptr() : nullptr;
    };
    const at::Tensor grad_cells = grad_output.contiguous();
    // Without gradients of points the values are not read, and a caller may pass their shape alone.
    const at::Tensor value_cells = wants_points ? value.contiguous() : value;
    const at::Tensor locations = sampling_locations.contiguous();
    const at::Tensor weights = attention_weights.contiguous();
    run_cuda<false>(
        {geometry,
         value.scalar_type(),
         locations.scalar_type(),
         locations.const_data_ptr(),
         weights.const_data_ptr(),
         address(grad_locations),
         address(grad_weights),
         {value_cells.const_data_ptr(), nullptr, grad_cells.const_data_ptr(), address(grad_sum), wants_points}},
        cuda::current_queue());
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
