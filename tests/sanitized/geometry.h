// The sizes and settings of a call, out of a request.

#pragma once

#include "dcnv4/geometry.h"
#include "ms_deform_attn/geometry.h"
#include "request.h"

#include <iterator>
#include <string>
#include <vector>

namespace sanitized {

inline flash_internimage::dcnv4::Axis dcnv4_axis(const Request& request, const std::string& name) {
  const std::vector<int64_t> numbers = request.integers(name);
  flash_internimage::dcnv4::Axis axis = {};
  int32_t* const members[] = {&axis.size,   &axis.output_size, &axis.kernel_size,
                              &axis.stride, &axis.padding,     &axis.dilation};
  for (size_t i = 0; i < std::size(members); ++i) {
    *members[i] = static_cast<int32_t>(numbers.at(i));
  }
  return axis;
}

inline flash_internimage::dcnv4::Geometry dcnv4_geometry(const Request& request) {
  return {
      request.integer("batch"),
      dcnv4_axis(request, "height"),
      dcnv4_axis(request, "width"),
      request.small("groups"),
      request.small("group_channels"),
      request.small("points"),
      request.integer("offset_mask_channels"),
      request.real("offset_scale"),
      request.integer("remove_center") != 0};
}

inline flash_internimage::ms_deform_attn::Geometry ms_deform_attn_geometry(const Request& request) {
  flash_internimage::ms_deform_attn::Geometry geometry = {};
  geometry.batch = request.integer("batch");
  geometry.tokens = request.integer("tokens");
  geometry.queries = request.integer("queries");
  geometry.heads = request.small("heads");
  geometry.head_channels = request.small("head_channels");
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
  return geometry;
}

} // namespace sanitized
