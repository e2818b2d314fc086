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

namespace flash_internimage::ms_deform_attn {

/// Checks every argument, for all devices, and says what a call works on.
Geometry check(
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights);

/// Checks that `grad_output` is the gradient of what a call with `geometry` and `value` gives.
void check_grad_output(const at::Tensor& grad_output, const at::Tensor& value, const Geometry& geometry);

} // namespace flash_internimage::ms_deform_attn
