// DCNv4: deformable convolution whose modulation is not normalized, channels last (arXiv:2401.06197).
//
//     value        (N, H, W, C)    C = G groups of D channels
//     offset_mask  (N, Ho, Wo, P)  group g owns [3Kg, 3K(g + 1)): K pairs (x, y) of offsets, then K modulations
//     output       (N, Ho, Wo, C)  for each group the sum over its K points of modulation x sample
//
// value and offset_mask have the same dtype, or value is float16 or bfloat16 and offset_mask float32.

#pragma once

#include "geometry.h"

#include <ATen/core/Tensor.h>

#include <array>
#include <tuple>

namespace flash_internimage::dcnv4 {

/// What a call says about its window and groups, as it was given. The lists belong to the caller.
struct Settings {
  at::IntArrayRef kernel_size; // (height, width), as the three that follow
  at::IntArrayRef stride;
  at::IntArrayRef padding;
  at::IntArrayRef dilation;
  int64_t groups;
  double offset_scale;
  bool remove_center;
};

/// Checks every argument, for all devices, and says what a call works on.
Geometry check(const at::Tensor& value, const at::Tensor& offset_mask, const Settings& settings);

/// Checks that `grad_output` is the gradient of what a call with `geometry` and `value` gives.
void check_grad_output(const at::Tensor& grad_output, const at::Tensor& value, const Geometry& geometry);

/// The operator, called as PyTorch calls it: for any device, with autograd and autocast.
at::Tensor call(const at::Tensor& value, const at::Tensor& offset_mask, const Settings& settings);

/// Its gradients; one that is not needed is an empty tensor.
std::tuple<at::Tensor, at::Tensor> call_backward(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    const at::Tensor& offset_mask,
    const Settings& settings,
    bool needs_grad_value,
    bool needs_grad_offset_mask);

/// `function` with the operator's arguments one by one, as the dispatcher and Python hand them over.
template <decltype(call) function>
at::Tensor with_arguments(
    const at::Tensor& value,
    const at::Tensor& offset_mask,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    int64_t groups,
    double offset_scale,
    bool remove_center) {
  return function(value, offset_mask, {kernel_size, stride, padding, dilation, groups, offset_scale, remove_center});
}

/// The same for `call_backward`.
template <decltype(call_backward) function>
std::tuple<at::Tensor, at::Tensor> with_backward_arguments(
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
  return function(
      grad_output, value, offset_mask, {kernel_size, stride, padding, dilation, groups, offset_scale, remove_center},
      needs_grad_value, needs_grad_offset_mask);
}

} // namespace flash_internimage::dcnv4
