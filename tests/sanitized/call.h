// A request as the kernels' Call. The geometry of an operator is the only part that differs.

#pragma once

#include "core/call.h"
#include "dcnv4/dcnv4.h"
#include "ms_deform_attn/ms_deform_attn.h"
#include "request.h"

#include <iterator>
#include <string>
#include <vector>

namespace sanitized {

inline flash_internimage::dcnv4::Axis read_axis(const Request& request, const std::string& name) {
  const std::vector<int64_t> numbers = request.integers(name);
  flash_internimage::dcnv4::Axis axis = {};
  int32_t* const members[] = {&axis.size,   &axis.output_size, &axis.kernel_size,
                              &axis.stride, &axis.padding,     &axis.dilation};
  for (size_t i = 0; i < std::size(members); ++i) {
    *members[i] = static_cast<int32_t>(numbers.at(i));
  }
  return axis;
}

inline void read(const Request& request, flash_internimage::dcnv4::Geometry& geometry) {
  geometry.height = read_axis(request, "height");
  geometry.width = read_axis(request, "width");
  geometry.offset_mask_channels = request.integer("offset_mask_channels");
  geometry.offset_scale = request.real("offset_scale");
  geometry.remove_center = request.integer("remove_center") != 0;
}

inline void read(const Request& request, flash_internimage::ms_deform_attn::Geometry& geometry) {
  geometry.points = request.small("points");
  const std::vector<int64_t> sizes = request.integers("spatial_shapes");
  geometry.levels = static_cast<int32_t>(sizes.size() / 2);
  int64_t start = 0;
  for (int32_t level = 0; level < geometry.levels; ++level) {
    const int64_t height = sizes[2 * level];
    const int64_t width = sizes[2 * level + 1];
    geometry.level[level] = {start, static_cast<int32_t>(height), static_cast<int32_t>(width)};
    start += height * width;
  }
}

template <typename op_t>
flash_internimage::Call<op_t> read_call(const Request& request) {
  typename op_t::Geometry geometry = {};
  geometry.batch = request.integer("batch");
  geometry.input_cells = request.integer("input_cells");
  geometry.outputs = request.integer("outputs");
  geometry.groups = request.small("groups");
  geometry.group_channels = request.small("group_channels");
  geometry.group_points = request.small("group_points");
  read(request, geometry);

  flash_internimage::Call<op_t> call = {geometry, request.dtype("value_dtype"), request.dtype("points_dtype")};
  call.value = request.buffer("value");
  call.output = request.buffer("output");
  call.grad_output = request.buffer("grad_output");
  call.grad_value = request.buffer("grad_value");
  for (size_t i = 0; i < op_t::kPointTensors.size(); ++i) {
    const std::string name = op_t::kPointTensors[i];
    call.points[i] = request.buffer(name);
    call.grad_points[i] = request.buffer("grad_" + name);
  }
  return call;
}

} // namespace sanitized
