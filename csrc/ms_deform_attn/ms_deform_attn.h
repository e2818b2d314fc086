// Multi-scale deformable attention: every head of a query adds up a few weighted samples of each level of a pyramid
// (arXiv:2010.04159, section 4.1).
//
//     value               (N, S, heads, D)                    tokens of all levels, one level after the other, row by row
//     spatial_shapes      2L integers                         height and width of each level; S is the sum of height x width
//     sampling_locations  (N, Q, heads, L, points, 2)         (x, y), 0..1 between a level's edges
//     attention_weights   (N, Q, heads, L, points)            used as they are
//     output              (N, Q, heads * D)
//
// sampling_locations and attention_weights have one dtype: that of value, or float32 where value is float16 or bfloat16.

#pragma once

#include "geometry.h"

#include <ATen/core/Tensor.h>

#include <tuple>

namespace flash_internimage::ms_deform_attn {

/// Checks every argument, for all devices, and says what a call works on.
Geometry check(
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights);

/// Checks that `grad_output` is the gradient of what a call with `geometry` and `value` gives.
void check_grad_output(const at::Tensor& grad_output, const at::Tensor& value, const Geometry& geometry);

/// The operator, called as PyTorch calls it: for any device, with autograd and autocast.
at::Tensor call(
    const at::Tensor& value,
    c10::SymIntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights);

/// Its gradients; one that is not needed is an empty tensor.
std::tuple<at::Tensor, at::Tensor, at::Tensor> call_backward(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    c10::SymIntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights,
    bool needs_grad_value,
    bool needs_grad_sampling_locations,
    bool needs_grad_attention_weights);

} // namespace flash_internimage::ms_deform_attn
