#include "ms_deform_attn.h"

#include <c10/util/Exception.h>

#include <array>
#include <limits>

namespace flash_internimage::ms_deform_attn {

namespace {

constexpr int64_t kMaximum = std::numeric_limits<int32_t>::max();

void check_companion(const char* name, const at::Tensor& companion, const at::Tensor& value) {
  const auto dtype = value.scalar_type();
  const bool low_precision = dtype == at::kHalf || dtype == at::kBFloat16;
  TORCH_CHECK_VALUE(
      companion.scalar_type() == dtype || (low_precision && companion.scalar_type() == at::kFloat),
      "ms_deform_attn: ", name, " needs the dtype of value, ", dtype, (low_precision ? ", or Float" : ""), ", got ",
      companion.scalar_type());
  TORCH_CHECK_VALUE(
      companion.device() == value.device(), "ms_deform_attn: ", name, " needs the device of value, ", value.device(),
      ", got ", companion.device());
}

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
        height * width <= geometry.tokens - start,
        "ms_deform_attn: value needs as many tokens as spatial_shapes has cells, more than ", geometry.tokens, " for ",
        spatial_shapes);
    start += height * width;
  }
  TORCH_CHECK_VALUE(
      start == geometry.tokens, "ms_deform_attn: value needs as many tokens as spatial_shapes has cells, ", start,
      " for ", spatial_shapes, ", got ", geometry.tokens);
  geometry.levels = static_cast<int32_t>(levels);
}

} // namespace

Geometry check(
    const at::Tensor& value,
    at::IntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  TORCH_CHECK_VALUE(
      value.dim() == 4, "ms_deform_attn: value needs the shape (batch, tokens, heads, channels), got ", value.sizes());
  const auto dtype = value.scalar_type();
  TORCH_CHECK_VALUE(
      dtype == at::kFloat || dtype == at::kDouble || dtype == at::kHalf || dtype == at::kBFloat16,
      "ms_deform_attn: value needs the dtype float32, float64, float16 or bfloat16, got ", dtype);
  TORCH_CHECK_VALUE(
      sampling_locations.dim() == 6 && sampling_locations.size(5) == 2,
      "ms_deform_attn: sampling_locations needs the shape (batch, queries, heads, levels, points, 2), got ",
      sampling_locations.sizes());
  check_companion("sampling_locations", sampling_locations, value);
  check_companion("attention_weights", attention_weights, value);
  TORCH_CHECK_VALUE(
      attention_weights.scalar_type() == sampling_locations.scalar_type(),
      "ms_deform_attn: attention_weights needs the dtype of sampling_locations, ", sampling_locations.scalar_type(),
      ", got ", attention_weights.scalar_type());
  TORCH_CHECK_VALUE(
      value.size(1) <= kMaximum && value.size(2) <= kMaximum && value.size(3) <= kMaximum,
      "ms_deform_attn: value needs fewer than 2^31 tokens, heads and channels, got shape ", value.sizes());

  Geometry geometry = {};
  geometry.batch = value.size(0);
  geometry.tokens = value.size(1);
  geometry.heads = static_cast<int32_t>(value.size(2));
  geometry.head_channels = static_cast<int32_t>(value.size(3));
  geometry.queries = sampling_locations.size(1);
  set_levels(geometry, spatial_shapes);

  const int64_t points = sampling_locations.size(4);
  const std::array<int64_t, 6> locations = {geometry.batch,  geometry.queries, geometry.heads,
                                            geometry.levels, points,           2};
  TORCH_CHECK_VALUE(
      sampling_locations.sizes() == at::IntArrayRef(locations),
      "ms_deform_attn: sampling_locations needs the batch size (", geometry.batch, ") and heads (", geometry.heads,
      ") of value and the levels (", geometry.levels, ") of spatial_shapes, got shape ", sampling_locations.sizes());
  TORCH_CHECK_VALUE(
      attention_weights.sizes() == sampling_locations.sizes().slice(0, 5),
      "ms_deform_attn: attention_weights needs the shape of sampling_locations without the last axis, ",
      sampling_locations.sizes().slice(0, 5), ", got ", attention_weights.sizes());
  TORCH_CHECK_VALUE(
      points <= kMaximum / kMaxLevels, "ms_deform_attn: sampling_locations needs fewer than ", kMaximum / kMaxLevels,
      " points, got ", points);
  geometry.points = static_cast<int32_t>(points);
  return geometry;
}

void check_grad_output(const at::Tensor& grad_output, const at::Tensor& value, const Geometry& geometry) {
  const std::array<int64_t, 3> expected = {geometry.batch, geometry.queries, geometry.channels()};
  TORCH_CHECK_VALUE(
      grad_output.sizes() == at::IntArrayRef(expected) && grad_output.scalar_type() == value.scalar_type() &&
          grad_output.device() == value.device(),
      "ms_deform_attn: grad_output needs the shape ", at::IntArrayRef(expected), ", dtype ", value.scalar_type(),
      " and device ", value.device(), " of the output, got ", grad_output.sizes(), ", ", grad_output.scalar_type(),
      " and ", grad_output.device());
}

} // namespace flash_internimage::ms_deform_attn
