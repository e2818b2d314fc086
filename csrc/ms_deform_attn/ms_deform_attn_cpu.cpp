#include "ms_deform_attn.h"
#include "ms_deform_attn_cpu_kernels.h"

#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>

namespace flash_internimage::ms_deform_attn {

namespace {

const Kernels& chosen_kernels() {
  return cpu::choose(generic::kernels, avx2::kernels, avx512::kernels);
}

at::Tensor forward_cpu(
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  const Geometry geometry = check(value, spatial_shapes, sampling_locations, attention_weights);
  at::Tensor output = at::empty({geometry.batch, geometry.queries, geometry.channels()}, value.options());
  if (output.numel() == 0) {
    return output;
  }
  const at::Tensor tokens = value.contiguous();
  const at::Tensor locations = sampling_locations.contiguous();
  const at::Tensor weights = attention_weights.contiguous();
  const ForwardCall call = {
      geometry,
      value.scalar_type(),
      locations.scalar_type(),
      tokens.const_data_ptr(),
      locations.const_data_ptr(),
      weights.const_data_ptr(),
      output.data_ptr()};
  const int64_t work = std::max<int64_t>(1, geometry.channels() * geometry.head_points());
  const int64_t grain = std::max<int64_t>(1, at::internal::GRAIN_SIZE / work);
  const Kernels& kernels = chosen_kernels();
  at::parallel_for(0, geometry.batch * geometry.queries, grain, [&](int64_t first, int64_t last) {
    kernels.forward(call, first, last);
  });
  return output;
}

/// Runs the backward with each image's heads spread over threads, and levels as well where those are too few. Additions
/// to an element happen in the order of queries whoever owns it, so the result does not depend on the split.
void backward_slices(const Kernels& kernels, const BackwardCall& call) {
  const Geometry& geometry = call.geometry;
  const int64_t heads = geometry.batch * geometry.heads;
  const bool split_levels = heads < at::get_num_threads();
  const int64_t parts = split_levels ? geometry.levels : 1;
  at::parallel_for(0, heads * parts, 1, [&](int64_t first, int64_t last) {
    while (first < last) {
      const int64_t head = first / parts % geometry.heads;
      // Heads of one image are walked together, because they share cache lines.
      const int64_t together = split_levels ? 1 : std::min(last - first, geometry.heads - head);
      const auto level = static_cast<int32_t>(first % parts);
      kernels.backward(
          call,
          {first / parts / geometry.heads, static_cast<int32_t>(head), static_cast<int32_t>(head + together), level,
           split_levels ? level + 1 : geometry.levels});
      first += together;
    }
  });
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_cpu(
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

  const auto gradient = [](bool needed, const at::Tensor& of) {
    return needed ? at::empty(of.sizes(), of.options()) : at::empty({0}, of.options());
  };
  at::Tensor grad_locations = gradient(needs_grad_sampling_locations, sampling_locations);
  at::Tensor grad_weights = gradient(needs_grad_attention_weights, attention_weights);
  at::Tensor grad_sum = needs_grad_value
      ? at::zeros(value.sizes(), value.options().dtype(at::toOpMathType(value.scalar_type())))
      : at::empty({0}, value.options());
  const bool wants_points = needs_grad_sampling_locations || needs_grad_attention_weights;
  if (!needs_grad_value && !wants_points) {
    return {grad_sum, grad_locations, grad_weights};
  }
  const at::Tensor grad_queries = grad_output.contiguous();
  // Without gradients of points the values are not read, and a caller may pass their shape alone.
  const at::Tensor tokens = wants_points ? value.contiguous() : value;
  const at::Tensor locations = sampling_locations.contiguous();
  const at::Tensor weights = attention_weights.contiguous();
  backward_slices(
      chosen_kernels(),
      {geometry, value.scalar_type(), locations.scalar_type(), grad_queries.const_data_ptr(), tokens.const_data_ptr(),
       locations.const_data_ptr(), weights.const_data_ptr(), needs_grad_value ? grad_sum.data_ptr() : nullptr,
       needs_grad_sampling_locations ? grad_locations.data_ptr() : nullptr,
       needs_grad_attention_weights ? grad_weights.data_ptr() : nullptr});
  return {grad_sum.to(value.scalar_type()), grad_locations, grad_weights};
}

} // namespace

TORCH_LIBRARY_IMPL(flash_internimage, CPU, library) {
  library.impl("ms_deform_attn", &forward_cpu);
  library.impl("ms_deform_attn_backward", &backward_cpu);
}

} // namespace flash_internimage::ms_deform_attn
