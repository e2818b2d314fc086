#include "../cuda/device.cuh"
#include "dcnv4.h"
#include "dcnv4_cuda_kernel.cuh"

#include <ATen/Context.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

namespace flash_internimage::dcnv4 {

namespace {

at::Tensor forward_cuda(const at::Tensor& value, const at::Tensor& offset_mask, const Settings& settings) {
  const Geometry geometry = check(value, offset_mask, settings);
  const c10::cuda::CUDAGuard guard(value.device());
  const at::Tensor output = at::empty(
      {geometry.batch, geometry.height.output_size, geometry.width.output_size, geometry.channels()}, value.options());
  if (output.numel() > 0) {
    const at::Tensor value_cells = value.contiguous();
    const at::Tensor points = offset_mask.contiguous();
    run_cuda<true>(
        {geometry,
         value.scalar_type(),
         offset_mask.scalar_type(),
         points.const_data_ptr(),
         nullptr,
         {value_cells.const_data_ptr(), output.mutable_data_ptr(), nullptr, nullptr, false}},
        cuda::current_queue());
  }
  return output;
}

std::tuple<at::Tensor, at::Tensor> backward_cuda(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    const at::Tensor& offset_mask,
    const Settings& settings,
    bool needs_grad_value,
    bool needs_grad_offset_mask) {
  const Geometry geometry = check(value, offset_mask, settings);
  check_grad_output(grad_output, value, geometry);
  if (needs_grad_value) {
    at::globalContext().alertNotDeterministic("dcnv4_backward_cuda");
  }
  const c10::cuda::CUDAGuard guard(value.device());
  const auto sum_options = value.options().dtype(at::toOpMathType(value.scalar_type()));
  const at::Tensor grad_sum =
      needs_grad_value ? at::zeros(value.sizes(), sum_options) : at::empty({0}, value.options());
  const at::Tensor grad_offset_mask = needs_grad_offset_mask ? at::empty(offset_mask.sizes(), offset_mask.options())
                                                             : at::empty({0}, offset_mask.options());
  if (grad_output.numel() == 0 || value.numel() == 0) {
    grad_offset_mask.zero_();
  } else if (needs_grad_value || needs_grad_offset_mask) {
    if (needs_grad_offset_mask) {
      const int64_t used = int64_t(3) * geometry.points * geometry.groups;
      grad_offset_mask.narrow(-1, used, geometry.offset_mask_channels - used).zero_();
    }
    const at::Tensor grad_cells = grad_output.contiguous();
    // Without gradients of points the values are not read, and a caller may pass their shape alone.
    const at::Tensor value_cells = needs_grad_offset_mask ? value.contiguous() : value;
    const at::Tensor points = offset_mask.contiguous();
    run_cuda<false>(
        {geometry,
         value.scalar_type(),
         offset_mask.scalar_type(),
         points.const_data_ptr(),
         needs_grad_offset_mask ? grad_offset_mask.mutable_data_ptr() : nullptr,
         {value_cells.const_data_ptr(), nullptr, grad_cells.const_data_ptr(),
          needs_grad_value ? grad_sum.mutable_data_ptr() : nullptr, needs_grad_offset_mask}},
        cuda::current_queue());
  }
  return {grad_sum.to(value.scalar_type()), grad_offset_mask};
}

} // namespace

TORCH_LIBRARY_IMPL(flash_internimage, CUDA, library) {
  library.impl("dcnv4", &with_arguments<forward_cuda>);
  library.impl("dcnv4_backward", &with_backward_arguments<backward_cuda>);
}

} // namespace flash_internimage::dcnv4
