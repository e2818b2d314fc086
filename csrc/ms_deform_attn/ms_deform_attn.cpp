#include "ms_deform_attn.h"

#include "../autograd/checks.h"

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <array>

namespace flash_internimage::ms_deform_attn {

namespace {

using autograd::kMaximum;

void set_levels(Geometry& geometry, at::IntArrayRef spatial_shapes) {
  TORCH_CHECK_VALUE(
      spatial_shapes.size() % 2 == 0, "ms_deform_attn: spatial_shapes needs a height and a width for each level, got ",
      spatial_shapes);
  const auto levels = static_cast<int64_t>(spatial_shapes.size() / 2);
  TORCH_CHECK_VALUE(
      levels <= kMaxLevels, "ms_deform_attn: spatial_shapes needs at most ", kMaxLevels, " levels, got ", levels);
  int64_t start = 0;
  for (int32_t l = 0; l < levels; ++l) {
    const int64_t height = spatial_shapes[2 * l];
    const int64_t width = spatial_shapes[2 * l + 1];
    TORCH_CHECK_VALUE(
        height >= 0 && width >= 0 && height <= kMaximum && width <= kMaximum,
        "ms_deform_attn: spatial_shapes needs heights and widths from 0 to 2^31 - 1, got (", height, ", ", width,
        ") for level ", l);
    geometry.level[l] = {start, static_cast<int32_t>(height), static_cast<int32_t>(width)};
    // Checked level by level, so that the sum cannot overflow.
    TORCH_CHECK_VALUE(
        height * width <= geometry.input_cells - start,
        "ms_deform_attn: value needs as many tokens as spatial_shapes has cells, more than ", geometry.input_cells,
        " for ", spatial_shapes);
    start += height * width;
  }
  TORCH_CHECK_VALUE(
      start == geometry.input_cells, "ms_deform_attn: value needs as many tokens as spatial_shapes has cells, ", start,
      " for ", spatial_shapes, ", got ", geometry.input_cells);
  geometry.levels = static_cast<int32_t>(levels);
}

} // namespace

Geometry Operator::check(
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  TORCH_CHECK_VALUE(
      value.dim() == 4, "ms_deform_attn: value needs the shape (batch, tokens, heads, channels), got ", value.sizes());
  autograd::check_value_dtype(kName, value);
  TORCH_CHECK_VALUE(
      sampling_locations.dim() == 6 && sampling_locations.size(5) == 2,
      "ms_deform_attn: sampling_locations needs the shape (batch, queries, heads, levels, points, 2), got ",
      sampling_locations.sizes());
  autograd::check_points(kName, kPointTensors[0], sampling_locations, value);
  autograd::check_points(kName, kPointTensors[1], attention_weights, value);
  TORCH_CHECK_VALUE(
      attention_weights.scalar_type() == sampling_locations.scalar_type(),
      "ms_deform_attn: attention_weights needs the dtype of sampling_locations, ", sampling_locations.scalar_type(),
      ", got ", attention_weights.scalar_type());
  TORCH_CHECK_VALUE(
      value.size(1) <= kMaximum && value.size(2) <= kMaximum && value.size(3) <= kMaximum,
      "ms_deform_attn: value needs fewer than 2^31 tokens, heads and channels, got shape ", value.sizes());

  Geometry geometry = {};
  geometry.batch = value.size(0);
  geometry.input_cells = value.size(1);
  geometry.groups = static_cast<int32_t>(value.size(2));
  geometry.group_channels = static_cast<int32_t>(value.size(3));
  geometry.outputs = sampling_locations.size(1);
  set_levels(geometry, spatial_shapes);

  const int64_t points = sampling_locations.size(4);
  const std::array<int64_t, 6> locations = {geometry.batch,  geometry.outputs, geometry.groups,
                                            geometry.levels, points,           2};
  TORCH_CHECK_VALUE(
      sampling_locations.sizes() == at::IntArrayRef(locations),
      "ms_deform_attn: sampling_locations needs the batch size (", geometry.batch, ") and heads (", geometry.groups,
      ") of value and the levels (", geometry.levels, ") of spatial_shapes, got shape ", sampling_locations.sizes());
  TORCH_CHECK_VALUE(
      attention_weights.sizes() == sampling_locations.sizes().slice(0, 5),
      "ms_deform_attn: attention_weights needs the shape of sampling_locations without the last axis, ",
      sampling_locations.sizes().slice(0, 5), ", got ", attention_weights.sizes());
  TORCH_CHECK_VALUE(
      points <= kMaximum / kMaxLevels, "ms_deform_attn: sampling_locations needs fewer than ", kMaximum / kMaxLevels,
      " points, got ", points);
  geometry.points = static_cast<int32_t>(points);
  geometry.group_points = geometry.levels * geometry.points;
  return geometry;
}

} // namespace flash_internimage::ms_deform_attn
