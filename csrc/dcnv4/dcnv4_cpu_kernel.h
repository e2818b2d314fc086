// The loops over cells, groups, points and channels, compiled once for each instruction set.
// Include after cpu/isa_*.h; dcnv4_cpu_includes.h lists what has to come before that.

#include "../cpu/pack.h"
#include "../cpu/point_block.h"
#include "../cpu/sampling.h"
#include "dcnv4_cpu_points.h"

namespace flash_internimage::dcnv4::FLASH_INTERNIMAGE_ISA {

constexpr int64_t kLineBytes = 64;

/// Rows below the window's last tap that most points stay above.
constexpr int64_t kRowsAhead = 3;

/// Asks for a group's channels of a cell below the window, if there is one, before the first points reach that row: they
/// do so at places that no processor foresees. `map` starts at the group's first channel.
template <bool is_written, typename scalar_t>
C10_ALWAYS_INLINE void fetch_ahead(const Geometry& geometry, const scalar_t* map, int64_t row, int64_t column) {
  const int64_t y = window_center(geometry.height, row) + geometry.height.center() + kRowsAhead;
  const int64_t x = window_center(geometry.width, column);
  if (y < 0 || y >= geometry.height.size || x < 0 || x >= geometry.width.size) {
    return;
  }
  const scalar_t* cell = map + (y * geometry.width.size + x) * geometry.channels();
  for (int64_t channel = 0; channel < geometry.group_channels; channel += kLineBytes / sizeof(scalar_t)) {
    __builtin_prefetch(cell + channel, is_written);
  }
}

template <typename value_t, typename offset_t, typename acc_t>
void forward_cells(const ForwardCall& call, int64_t first, int64_t last) {
  const Geometry& geometry = call.geometry;
  const int64_t channels = geometry.channels();
  Points<acc_t, offset_t> points(geometry, call.offset_mask);

  const int64_t columns = geometry.width.output_size;
  int64_t column = first % columns;
  int64_t row = first / columns % geometry.height.output_size;
  int64_t image = first / columns / geometry.height.output_size;
  for (int64_t cell = first; cell < last; ++cell) {
    const value_t* map = static_cast<const value_t*>(call.value) + image * geometry.input_cells() * channels;
    value_t* output = static_cast<value_t*>(call.output) + cell * channels;
    for (int32_t group = 0; group < geometry.groups; ++group) {
      fetch_ahead<false>(geometry, map + static_cast<int64_t>(group) * geometry.group_channels, row, column);
      points.locate(cell, row, column, group);
      for_each_pack(geometry.group_channels, [&](auto width, int64_t channel) {
        const int64_t offset = static_cast<int64_t>(group) * geometry.group_channels + channel;
        SampleSum<acc_t, width> sum;
        for (const PointBlock<acc_t>& block : points.blocks()) {
          sum.add(block, map + offset, channels);
        }
        sum.store(output + offset);
      });
    }
    if (++column == columns) {
      column = 0;
      if (++row == geometry.height.output_size) {
        row = 0;
        ++image;
      }
    }
  }
}

/// `differentiate` for all channels of a group.
template <bool wants_dots, bool wants_grad, typename acc_t, typename value_t>
C10_ALWAYS_INLINE void differentiate_group(
    const PointBlock<acc_t>& block,
    const Geometry& geometry,
    const value_t* map,
    const value_t* grad_output,
    acc_t* grad_map,
    CornerDots<acc_t>& dots) {
  for_each_pack(geometry.group_channels, [&](auto width, int64_t channel) {
    acc_t* grad_channel = wants_grad ? grad_map + channel : nullptr;
    differentiate<wants_dots, wants_grad, width>(
        block, map + channel, grad_channel, geometry.channels(), grad_output + channel, dots);
  });
}

template <typename acc_t, typename offset_t>
C10_ALWAYS_INLINE void write_point_gradients(
    const PointBlock<acc_t>& block,
    const CornerDots<acc_t>& dots,
    acc_t offset_scale,
    offset_t* grad_offsets,
    offset_t* grad_modulations) {
  const PointGradients<acc_t> gradients(block, dots);
  for (int i = 0; i < block.count; ++i) {
    grad_offsets[2 * i] = static_cast<offset_t>(gradients.x[i] * offset_scale);
    grad_offsets[2 * i + 1] = static_cast<offset_t>(gradients.y[i] * offset_scale);
    grad_modulations[i] = static_cast<offset_t>(gradients.factor[i]);
  }
}

template <bool wants_points, bool wants_grad_value, typename value_t, typename offset_t, typename acc_t>
void walk_slice(const BackwardCall& call, const BackwardSlice& slice) {
  const Geometry& geometry = call.geometry;
  const int64_t channels = geometry.channels();
  const int64_t first_element = slice.image * geometry.input_cells() * channels;
  const value_t* map = static_cast<const value_t*>(call.value) + first_element;
  acc_t* grad_map = wants_grad_value ? static_cast<acc_t*>(call.grad_value) + first_element : nullptr;
  const bool owns_all_rows = slice.first_input_row == 0 && slice.last_input_row == geometry.height.size;
  const acc_t offset_scale = static_cast<acc_t>(geometry.offset_scale);
  Points<acc_t, offset_t> points(geometry, call.offset_mask);

  // Any row of output may reach the input rows of the slice, but gradients of points are those of its own rows.
  const int32_t first_row = wants_grad_value ? 0 : slice.first_output_row;
  const int32_t last_row = wants_grad_value ? geometry.height.output_size : slice.last_output_row;
  for (int64_t row = first_row; row < last_row; ++row) {
    const bool owns_row = row >= slice.first_output_row && row < slice.last_output_row;
    for (int64_t column = 0; column < geometry.width.output_size; ++column) {
      const int64_t cell = slice.image * geometry.output_cells() + row * geometry.width.output_size + column;
      for (int32_t group = slice.first_group; group < slice.last_group; ++group) {
        const int64_t channel = static_cast<int64_t>(group) * geometry.group_channels;
        if constexpr (wants_points) {
          fetch_ahead<false>(geometry, map + channel, row, column);
        }
        if constexpr (wants_grad_value) {
          fetch_ahead<true>(geometry, grad_map + channel, row, column);
        }
        points.locate(cell, row, column, group);
        const value_t* grad_output = static_cast<const value_t*>(call.grad_output) + cell * channels + channel;
        acc_t* grad_group = wants_grad_value ? grad_map + channel : nullptr;
        for (size_t index = 0; index < points.blocks().size(); ++index) {
          const PointBlock<acc_t>& block = points.blocks()[index];
          CornerDots<acc_t> dots;
          if (owns_all_rows) {
            differentiate_group<wants_points, wants_grad_value>(
                block, geometry, map + channel, grad_output, grad_group, dots);
          } else {
            if (wants_points && owns_row) {
              differentiate_group<wants_points, false>(block, geometry, map + channel, grad_output, grad_group, dots);
            }
            if constexpr (wants_grad_value) {
              const auto own = block.restricted(slice.first_input_row, slice.last_input_row);
              differentiate_group<false, true>(own, geometry, map + channel, grad_output, grad_group, dots);
            }
          }
          if (wants_points && owns_row) {
            offset_t* gradients = static_cast<offset_t*>(call.grad_offset_mask) + cell * geometry.offset_mask_channels +
                int64_t(3) * geometry.points * group;
            write_point_gradients(
                block, dots, offset_scale, gradients + 2 * kBlock * index,
                gradients + 2 * int64_t(geometry.points) + kBlock * index);
          }
        }
      }
    }
  }
}

template <typename value_t, typename offset_t, typename acc_t>
void backward_slice(const BackwardCall& call, const BackwardSlice& slice) {
  if (call.grad_offset_mask == nullptr) {
    walk_slice<false, true, value_t, offset_t, acc_t>(call, slice);
  } else if (call.grad_value == nullptr) {
    walk_slice<true, false, value_t, offset_t, acc_t>(call, slice);
  } else {
    walk_slice<true, true, value_t, offset_t, acc_t>(call, slice);
  }
}

void forward(const ForwardCall& call, int64_t first, int64_t last) {
  for_dtypes(call.value_dtype, call.offset_mask_dtype, [&](auto dtypes) {
    using D = decltype(dtypes);
    forward_cells<typename D::value_t, typename D::points_t, typename D::acc_t>(call, first, last);
  });
}

void backward(const BackwardCall& call, const BackwardSlice& slice) {
  for_dtypes(call.value_dtype, call.offset_mask_dtype, [&](auto dtypes) {
    using D = decltype(dtypes);
    backward_slice<typename D::value_t, typename D::points_t, typename D::acc_t>(call, slice);
  });
}

const Kernels kernels = {&forward, &backward};

} // namespace flash_internimage::dcnv4::FLASH_INTERNIMAGE_ISA
