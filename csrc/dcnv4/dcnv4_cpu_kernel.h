// The loops over cells, groups, points and channels, compiled once for each instruction set.
// Include after cpu/isa_*.h; dcnv4_cpu_includes.h lists what has to come before that.

#include "../cpu/pack.h"
#include "dcnv4_cpu_points.h"

namespace flash_internimage::dcnv4::FLASH_INTERNIMAGE_ISA {

using namespace flash_internimage::FLASH_INTERNIMAGE_ISA;

/// Corner pointers of one point. Missing corners point to `missing`, so that the loops over channels need no branch:
/// zeros to read from, or a place to write what nobody reads.
template <bool interior, typename scalar_t>
struct Corners {
  scalar_t* at[kCorners];

  C10_ALWAYS_INLINE Corners(
      scalar_t* map,
      const CellGrid<int64_t>& grid,
      int32_t row,
      int32_t column,
      int32_t present,
      scalar_t* missing) {
    const int64_t first = row * grid.row_stride + column * grid.cell_stride;
    const int64_t offsets[kCorners] = {
        first, first + grid.cell_stride, first + grid.row_stride, first + grid.row_stride + grid.cell_stride};
#pragma GCC unroll 4
    for (int corner = 0; corner < kCorners; ++corner) {
      at[corner] = (interior || (present >> corner & 1)) ? map + offsets[corner] : missing;
    }
  }
};

template <int width, bool interior, typename acc_t, typename value_t>
C10_ALWAYS_INLINE void sample_pack(
    const std::vector<PointBlock<acc_t>>& blocks,
    const CellGrid<int64_t>& grid,
    const value_t* map,
    const value_t* zeros,
    value_t* output) {
  using pack_t = Pack<acc_t, width>;
  pack_t sum = pack_t::zero();
  for (const PointBlock<acc_t>& block : blocks) {
    for (int i = 0; i < block.count; ++i) {
      const Corners<interior, const value_t> corners(map, grid, block.row[i], block.column[i], block.corners[i], zeros);
#pragma GCC unroll 4
      for (int corner = 0; corner < kCorners; ++corner) {
        sum.add(block.weight[corner][i], pack_t::load(corners.at[corner]));
      }
    }
  }
  sum.store(output);
}

template <typename value_t, typename offset_t, typename acc_t>
void forward_cells(const ForwardCall& call, int64_t first, int64_t last) {
  const Geometry& geometry = call.geometry;
  const int64_t channels = geometry.channels();
  const CellGrid<int64_t> grid = {
      geometry.height.size, geometry.width.size, geometry.width.size * channels, channels};
  const value_t zeros[kWidestPack] = {};
  Points<acc_t, offset_t> points(geometry, call.offset_mask);

  const int64_t columns = geometry.width.output_size;
  int64_t column = first % columns;
  int64_t row = first / columns % geometry.height.output_size;
  int64_t image = first / columns / geometry.height.output_size;
  for (int64_t cell = first; cell < last; ++cell) {
    const value_t* map = static_cast<const value_t*>(call.value) + image * geometry.input_cells() * channels;
    value_t* output = static_cast<value_t*>(call.output) + cell * channels;
    for (int32_t group = 0; group < geometry.groups; ++group) {
      const bool interior = points.locate(cell, row, column, group);
      for_each_pack(geometry.group_channels, [&](auto width, int64_t channel) {
        const int64_t offset = static_cast<int64_t>(group) * geometry.group_channels + channel;
        if (interior) {
          sample_pack<width, true>(points.blocks(), grid, map + offset, zeros, output + offset);
        } else {
          sample_pack<width, false>(points.blocks(), grid, map + offset, zeros, output + offset);
        }
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

/// Dot products of the output's gradient with the corners of each point of a block.
template <typename acc_t>
struct CornerDots {
  acc_t at[kCorners][kBlock];
};

/// Which corners of each point a slice adds to: those on the map and in the rows that it owns.
template <typename acc_t>
C10_ALWAYS_INLINE void own_corners(const PointBlock<acc_t>& block, const BackwardSlice& slice, int32_t* owned) {
  for (int i = 0; i < kBlock; ++i) {
    const int32_t upper = block.row[i] >= slice.first_input_row && block.row[i] < slice.last_input_row;
    const int32_t lower = block.row[i] + 1 >= slice.first_input_row && block.row[i] + 1 < slice.last_input_row;
    owned[i] = block.corners[i] & (upper * 3 | lower * 12);
  }
}

template <int width, bool interior, typename acc_t, typename value_t>
C10_ALWAYS_INLINE void dot_pack(
    const PointBlock<acc_t>& block,
    const CellGrid<int64_t>& grid,
    const value_t* map,
    const value_t* zeros,
    const value_t* grad_output,
    CornerDots<acc_t>& dots) {
  using pack_t = Pack<acc_t, width>;
  const pack_t grad = pack_t::load(grad_output);
  for (int i = 0; i < block.count; ++i) {
    const Corners<interior, const value_t> corners(map, grid, block.row[i], block.column[i], block.corners[i], zeros);
#pragma GCC unroll 4
    for (int corner = 0; corner < kCorners; ++corner) {
      dots.at[corner][i] += sum_lanes<acc_t, pack_t::kLanes>(grad.multiply(pack_t::load(corners.at[corner])));
    }
  }
}

template <int width, bool interior, typename acc_t, typename value_t>
C10_ALWAYS_INLINE void scatter_pack(
    const PointBlock<acc_t>& block,
    const int32_t* owned,
    const CellGrid<int64_t>& grid,
    const value_t* grad_output,
    acc_t* unread,
    acc_t* grad_map) {
  using pack_t = Pack<acc_t, width>;
  const pack_t grad = pack_t::load(grad_output);
  for (int i = 0; i < block.count; ++i) {
    const Corners<interior, acc_t> corners(grad_map, grid, block.row[i], block.column[i], owned[i], unread);
#pragma GCC unroll 4
    for (int corner = 0; corner < kCorners; ++corner) {
      pack_t sum = pack_t::load(corners.at[corner]);
      sum.add(block.weight[corner][i], grad);
      sum.store(corners.at[corner]);
    }
  }
}

/// From dot products to the gradients of offsets and modulations. Points that do not count get exact zeros, whatever
/// their modulation or the output's gradient hold.
template <typename acc_t, typename offset_t>
C10_ALWAYS_INLINE void write_point_gradients(
    const PointBlock<acc_t>& block,
    const CornerDots<acc_t>& dots,
    acc_t offset_scale,
    offset_t* grad_offsets,
    offset_t* grad_modulations) {
  acc_t grad_y[kBlock];
  acc_t grad_x[kBlock];
  acc_t grad_modulation[kBlock];
  for (int i = 0; i < kBlock; ++i) {
    const BilinearPoint<acc_t> point = {0, 0, block.dy[i], block.dx[i], block.corners[i]};
    const acc_t v0 = dots.at[0][i];
    const acc_t v1 = dots.at[1][i];
    const acc_t v2 = dots.at[2][i];
    const acc_t v3 = dots.at[3][i];
    const BilinearGradient<acc_t> slope = interpolate_gradient(point, v0, v1, v2, v3);
    const bool counts = point.corners != 0;
    grad_y[i] = counts ? slope.y * block.modulation[i] * offset_scale : acc_t(0);
    grad_x[i] = counts ? slope.x * block.modulation[i] * offset_scale : acc_t(0);
    grad_modulation[i] = counts ? interpolate(point, v0, v1, v2, v3) : acc_t(0);
  }
  for (int i = 0; i < block.count; ++i) {
    grad_offsets[2 * i] = static_cast<offset_t>(grad_x[i]);
    grad_offsets[2 * i + 1] = static_cast<offset_t>(grad_y[i]);
    grad_modulations[i] = static_cast<offset_t>(grad_modulation[i]);
  }
}

template <typename value_t, typename offset_t, typename acc_t>
void backward_slice(const BackwardCall& call, const BackwardSlice& slice) {
  const Geometry& geometry = call.geometry;
  const int64_t channels = geometry.channels();
  const CellGrid<int64_t> grid = {
      geometry.height.size, geometry.width.size, geometry.width.size * channels, channels};
  const int64_t first_element = slice.image * geometry.input_cells() * channels;
  const value_t* map = static_cast<const value_t*>(call.value) + first_element;
  acc_t* grad_map = call.grad_value == nullptr ? nullptr : static_cast<acc_t*>(call.grad_value) + first_element;
  const bool owns_all_rows = slice.first_input_row == 0 && slice.last_input_row == geometry.height.size;
  const acc_t offset_scale = static_cast<acc_t>(geometry.offset_scale);
  const value_t zeros[kWidestPack] = {};
  acc_t unread[kWidestPack] = {};
  Points<acc_t, offset_t> points(geometry, call.offset_mask);

  int64_t cell = slice.image * geometry.output_cells();
  for (int64_t row = 0; row < geometry.height.output_size; ++row) {
    const bool owns_row = row >= slice.first_output_row && row < slice.last_output_row;
    const bool wants_points = owns_row && call.grad_offset_mask != nullptr;
    if (!wants_points && grad_map == nullptr) {
      cell += geometry.width.output_size;
      continue;
    }
    for (int64_t column = 0; column < geometry.width.output_size; ++column, ++cell) {
      for (int32_t group = slice.first_group; group < slice.last_group; ++group) {
        const bool interior = points.locate(cell, row, column, group);
        const int64_t first_channel = static_cast<int64_t>(group) * geometry.group_channels;
        const value_t* grad_output =
            static_cast<const value_t*>(call.grad_output) + cell * channels + first_channel;
        for (size_t index = 0; index < points.blocks().size(); ++index) {
          const PointBlock<acc_t>& block = points.blocks()[index];
          if (wants_points) {
            CornerDots<acc_t> dots = {};
            for_each_pack(geometry.group_channels, [&](auto width, int64_t channel) {
              const value_t* corner = map + first_channel + channel;
              if (interior) {
                dot_pack<width, true>(block, grid, corner, zeros, grad_output + channel, dots);
              } else {
                dot_pack<width, false>(block, grid, corner, zeros, grad_output + channel, dots);
              }
            });
            offset_t* grad_slice = static_cast<offset_t*>(call.grad_offset_mask) +
                cell * geometry.offset_mask_channels + int64_t(3) * geometry.points * group;
            write_point_gradients(
                block,
                dots,
                offset_scale,
                grad_slice + 2 * kBlock * index,
                grad_slice + 2 * int64_t(geometry.points) + kBlock * index);
          }
          if (grad_map != nullptr) {
            int32_t owned[kBlock];
            if (!interior || !owns_all_rows) {
              own_corners(block, slice, owned);
            }
            for_each_pack(geometry.group_channels, [&](auto width, int64_t channel) {
              acc_t* corner = grad_map + first_channel + channel;
              if (interior && owns_all_rows) {
                scatter_pack<width, true>(block, block.corners, grid, grad_output + channel, unread, corner);
              } else {
                scatter_pack<width, false>(block, owned, grid, grad_output + channel, unread, corner);
              }
            });
          }
        }
      }
    }
  }
}


/// Runs the instance for a call's dtypes. Which of them go together is checked before.
#define FLASH_INTERNIMAGE_DISPATCH(kernel, call, ...)                       \
  do {                                                                      \
    const bool wide_offsets = call.offset_mask_dtype == c10::kFloat;        \
    switch (call.value_dtype) {                                             \
      case c10::kDouble:                                                    \
        return kernel<double, double, double>(call, __VA_ARGS__);           \
      case c10::kFloat:                                                     \
        return kernel<float, float, float>(call, __VA_ARGS__);              \
      case c10::kBFloat16:                                                  \
        return wide_offsets                                                 \
            ? kernel<c10::BFloat16, float, float>(call, __VA_ARGS__)        \
            : kernel<c10::BFloat16, c10::BFloat16, float>(call, __VA_ARGS__); \
      default:                                                              \
        return wide_offsets ? kernel<c10::Half, float, float>(call, __VA_ARGS__) \
                            : kernel<c10::Half, c10::Half, float>(call, __VA_ARGS__); \
    }                                                                       \
  } while (false)

void forward(const ForwardCall& call, int64_t first, int64_t last) {
  FLASH_INTERNIMAGE_DISPATCH(forward_cells, call, first, last);
}

void backward(const BackwardCall& call, const BackwardSlice& slice) {
  FLASH_INTERNIMAGE_DISPATCH(backward_slice, call, slice);
}

#undef FLASH_INTERNIMAGE_DISPATCH

const Kernels kernels = {&forward, &backward};

} // namespace flash_internimage::dcnv4::FLASH_INTERNIMAGE_ISA
