#include "../cuda/device.h"
#include "../cuda/launch.h"
#include "dcnv4.h"
#include "dcnv4_points.cuh"

#include <ATen/Context.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <type_traits>

namespace flash_internimage::dcnv4 {

namespace {

struct Buffers {
  at::Tensor value; // contiguous, as all of these
  at::Tensor offset_mask;
  at::Tensor output; // or its gradient
  void* grad_value; // of opmath_type; null in a forward, or where it is not wanted
  void* grad_offset_mask; // likewise
};

template <typename value_t, typename offset_t, typename index_t, int width, bool is_forward>
void launch(const Geometry& geometry, const Buffers& buffers) {
  using acc_t = at::opmath_type<value_t>;
  using points_t = Points<value_t, offset_t, acc_t, index_t>;
  const points_t points = {
      geometry.batch * geometry.output_cells() * geometry.groups,
      geometry.points,
      geometry.group_channels,
      static_cast<index_t>(geometry.channels()),
      geometry,
      buffers.offset_mask.const_data_ptr<offset_t>(),
      static_cast<offset_t*>(buffers.grad_offset_mask)};
  using sample_t =
      std::conditional_t<is_forward, cuda::Sample<acc_t, index_t>, cuda::DifferentiableSample<acc_t, index_t>>;
  const cuda::Work work = {points.units, points.channels, width, points.points, sizeof(sample_t)};
  const cuda::Launch launch = cuda::plan_launch(work, cuda::device_limits());
  const cuda::Shares shares = {
      static_cast<int32_t>(launch.lanes),
      static_cast<int32_t>(launch.units_per_block),
      static_cast<int32_t>(launch.points_per_pass)};
  const cudaStream_t stream = at::cuda::getCurrentCUDAStream();
  if constexpr (is_forward) {
    cuda::forward_kernel<width, points_t><<<launch.blocks, launch.threads, launch.shared_bytes, stream>>>(
        points, shares, buffers.value.const_data_ptr<value_t>(), buffers.output.mutable_data_ptr<value_t>());
  } else {
    cuda::backward_kernel<width, points_t><<<launch.blocks, launch.threads, launch.shared_bytes, stream>>>(
        points,
        shares,
        buffers.grad_offset_mask != nullptr,
        buffers.output.const_data_ptr<value_t>(),
        buffers.value.const_data_ptr<value_t>(),
        static_cast<acc_t*>(buffers.grad_value));
  }
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename value_t, typename offset_t, bool is_forward>
void choose_instance(const Geometry& geometry, const Buffers& buffers) {
  constexpr int kWidth = 16 / sizeof(value_t);
  const bool short_indices =
      cuda::fits_32_bits({buffers.value.numel(), buffers.offset_mask.numel(), buffers.output.numel()});
  // A gradient that is summed in a wider type is aligned as its allocation, so by more than any vector.
  const bool vectors = cuda::allows_vectors(
      geometry.group_channels,
      sizeof(value_t),
      {buffers.value.const_data_ptr(), buffers.output.const_data_ptr(), buffers.grad_value});
  if (short_indices) {
    vectors ? launch<value_t, offset_t, int32_t, kWidth, is_forward>(geometry, buffers)
            : launch<value_t, offset_t, int32_t, 1, is_forward>(geometry, buffers);
  } else {
    vectors ? launch<value_t, offset_t, int64_t, kWidth, is_forward>(geometry, buffers)
            : launch<value_t, offset_t, int64_t, 1, is_forward>(geometry, buffers);
  }
}

/// Runs the instance for the tensors' dtypes. Which of them go together is checked before.
template <bool is_forward>
void dispatch(const Geometry& geometry, const Buffers& buffers) {
  const bool wide_offsets = buffers.offset_mask.scalar_type() == at::kFloat;
  switch (buffers.value.scalar_type()) {
    case at::kDouble:
      return choose_instance<double, double, is_forward>(geometry, buffers);
    case at::kFloat:
      return choose_instance<float, float, is_forward>(geometry, buffers);
    case at::kBFloat16:
      return wide_offsets ? choose_instance<at::BFloat16, float, is_forward>(geometry, buffers)
                          : choose_instance<at::BFloat16, at::BFloat16, is_forward>(geometry, buffers);
    default:
      return wide_offsets ? choose_instance<at::Half, float, is_forward>(geometry, buffers)
                          : choose_instance<at::Half, at::Half, is_forward>(geometry, buffers);
  }
}

at::Tensor forward_cuda(
    const at::Tensor& value,
    const at::Tensor& offset_mask,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    int64_t groups,
    double offset_scale,
    bool remove_center) {
  const Geometry geometry =
      check(value, offset_mask, kernel_size, stride, padding, dilation, groups, offset_scale, remove_center);
  const c10::cuda::CUDAGuard guard(value.device());
  const at::Tensor output = at::empty(
      {geometry.batch, geometry.height.output_size, geometry.width.output_size, geometry.channels()}, value.options());
  if (output.numel() > 0) {
    dispatch<true>(geometry, {value.contiguous(), offset_mask.contiguous(), output, nullptr, nullptr});
  }
  return output;
}

std::tuple<at::Tensor, at::Tensor> backward_cuda(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    const at::Tensor& offset_mask,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    int64_t groups,
    double offset_scale,
    bool remove_center,
    bool needs_grad_value,
    bool needs_grad_offset_mask) {
  const Geometry geometry =
      check(value, offset_mask, kernel_size, stride, padding, dilation, groups, offset_scale, remove_center);
  check_grad_output(grad_output, value, geometry);
  if (needs_grad_value) {
    at::globalContext().alertNotDeterministic("dcnv4_backward_cuda");
  }
  const c10::cuda::CUDAGuard guard(value.device());
  const auto sum_options = value.options().dtype(at::toOpMathType(value.scalar_type()));
  const at::Tensor grad_sum =
      needs_grad_value ? at::zeros(value.sizes(), sum_options) : at::empty({0}, value.options());
  const at::Tensor grad_offset_mask =
      needs_grad_offset_mask ? at::empty(offset_mask.sizes(), offset_mask.options()) : at::empty({0}, offset_mask.options());
  if (grad_output.numel() == 0 || value.numel() == 0) {
    grad_offset_mask.zero_();
  } else if (needs_grad_value || needs_grad_offset_mask) {
    if (needs_grad_offset_mask) {
      const int64_t used = int64_t(3) * geometry.points * geometry.groups;
      grad_offset_mask.narrow(-1, used, geometry.offset_mask_channels - used).zero_();
    }
    dispatch<false>(
        geometry,
        {needs_grad_offset_mask ? value.contiguous() : value,
         offset_mask.contiguous(),
         grad_output.contiguous(),
         needs_grad_value ? grad_sum.data_ptr() : nullptr,
         needs_grad_offset_mask ? grad_offset_mask.data_ptr() : nullptr});
  }
  return {grad_sum.to(value.scalar_type()), grad_offset_mask};
}

} // namespace

TORCH_LIBRARY_IMPL(flash_internimage, CUDA, library) {
  library.impl("dcnv4", &forward_cuda);
  library.impl("dcnv4_backward", &backward_cuda);
}

} // namespace flash_internimage::dcnv4
