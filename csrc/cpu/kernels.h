// The loops of every operator over outputs, groups, points and channels, compiled once for each instruction set.
// Include after cpu/isa_*.h; cpu/kernels_includes.h lists the headers that have to come before that.

#include "pack.h"
#include "point_block.h"
#include "sampling.h"

namespace flash_internimage::FLASH_INTERNIMAGE_ISA {

/// The sampling points of the operator `op_t`, in blocks. Each operator specializes this in <op>_points_cpu.h, with
///
///     explicit Points(const Call<op_t>& call, int32_t part = 0, int32_t parts = 1);   all points, or those of a part
///     void move_to(int64_t output);   selects an output, numbered through the batch
///     void advance();                 selects the next output
///     void locate(int32_t group);     computes the sampling locations of a group of that output, in the blocks
///     void write_gradients(const PointGradients<acc_t>& gradients, int32_t group, size_t block) const;
///
/// and overrides the members of PointBlocks whose defaults do not fit.
template <typename op_t, typename acc_t, typename points_t>
class Points;

template <typename acc_t>
class PointBlocks {
 public:
  /// Channels that are summed in one walk over the points.
  static constexpr int kWidestPack = 16;

  const std::vector<PointBlock<acc_t>>& blocks() const {
    return blocks_;
  }

  /// Prefetches what later points will need of `map`, a group's channels of an image.
  template <bool is_written, typename scalar_t>
  C10_ALWAYS_INLINE void prefetch(const scalar_t* map) const {}

  /// Outputs of an image whose point gradients belong to the part, of `outputs`.
  C10_ALWAYS_INLINE int64_t first_owned(int64_t outputs) const {
    return 0;
  }
  C10_ALWAYS_INLINE int64_t last_owned(int64_t outputs) const {
    return outputs;
  }

  /// Whether everything that the points reach belongs to the part. If not, `owned` keeps the corners that do.
  C10_ALWAYS_INLINE bool owns_all_corners() const {
    return true;
  }
  PointBlock<acc_t> owned(const PointBlock<acc_t>& block) const {
    return block;
  }

 protected:
  explicit PointBlocks(int64_t points)
      : blocks_((points + kBlock - 1) / kBlock) {}

  std::vector<PointBlock<acc_t>> blocks_;
};

template <typename op_t, typename value_t, typename points_t, typename acc_t>
void forward_outputs(const Call<op_t>& call, int64_t first, int64_t last) {
  const auto& geometry = call.geometry;
  const int64_t channels = geometry.channels();
  Points<op_t, acc_t, points_t> points(call);
  points.move_to(first);
  for (int64_t output = first; output < last; ++output, points.advance()) {
    const value_t* image =
        static_cast<const value_t*>(call.value) + output / geometry.outputs * geometry.input_cells * channels;
    value_t* sums = static_cast<value_t*>(call.output) + output * channels;
    for (int32_t group = 0; group < geometry.groups; ++group) {
      const int64_t first_channel = static_cast<int64_t>(group) * geometry.group_channels;
      points.template prefetch<false>(image + first_channel);
      points.locate(group);
      for_each_pack<points.kWidestPack>(geometry.group_channels, [&](auto width, int64_t channel) {
        const int64_t offset = first_channel + channel;
        SampleSum<acc_t, width> sum;
        for (const PointBlock<acc_t>& block : points.blocks()) {
          sum.add(block, image + offset, channels);
        }
        sum.store(sums + offset);
      });
    }
  }
}

/// `differentiate` for all channels of a group, to whose first channel the pointers point.
template <int widest_pack, bool needs_points, bool needs_value, typename acc_t, typename value_t>
C10_ALWAYS_INLINE void differentiate_group(
    const PointBlock<acc_t>& block,
    const Sizes& sizes,
    const value_t* map,
    const value_t* grad_output,
    acc_t* grad_map,
    CornerDots<acc_t>& dots) {
  for_each_pack<widest_pack>(sizes.group_channels, [&](auto width, int64_t channel) {
    acc_t* grad_channel = needs_value ? grad_map + channel : nullptr;
    differentiate<needs_points, needs_value, width>(
        block, map + channel, grad_channel, sizes.channels(), grad_output + channel, dots);
  });
}

template <bool needs_points, bool needs_value, typename op_t, typename value_t, typename points_t, typename acc_t>
void backward_slice(const Call<op_t>& call, const cpu::Slice& slice) {
  const auto& geometry = call.geometry;
  const int64_t channels = geometry.channels();
  const int64_t first_element = slice.image * geometry.input_cells * channels;
  const value_t* image = static_cast<const value_t*>(call.value) + first_element;
  acc_t* grad_image = needs_value ? static_cast<acc_t*>(call.grad_value) + first_element : nullptr;
  Points<op_t, acc_t, points_t> points(call, slice.part, slice.parts);
  constexpr int kWidest = points.kWidestPack;

  // Points of any output may reach the slice's part of a feature map, but it owns the point gradients of some outputs
  // only.
  const int64_t first_owned = points.first_owned(geometry.outputs);
  const int64_t last_owned = points.last_owned(geometry.outputs);
  const int64_t first = needs_value ? 0 : first_owned;
  const int64_t last = needs_value ? geometry.outputs : last_owned;
  points.move_to(slice.image * geometry.outputs + first);
  for (int64_t output = first; output < last; ++output, points.advance()) {
    const bool owns_output = output >= first_owned && output < last_owned;
    const value_t* grad_sums =
        static_cast<const value_t*>(call.grad_output) + (slice.image * geometry.outputs + output) * channels;
    for (int32_t group = slice.first_group; group < slice.last_group; ++group) {
      const int64_t channel = static_cast<int64_t>(group) * geometry.group_channels;
      const value_t* map = image + channel;
      acc_t* grad_map = needs_value ? grad_image + channel : nullptr;
      const value_t* grad_group = grad_sums + channel;
      if constexpr (needs_points) {
        points.template prefetch<false>(map);
      }
      if constexpr (needs_value) {
        points.template prefetch<true>(grad_map);
      }
      points.locate(group);
      for (size_t index = 0; index < points.blocks().size(); ++index) {
        const PointBlock<acc_t>& block = points.blocks()[index];
        CornerDots<acc_t> dots;
        if (points.owns_all_corners()) {
          differentiate_group<kWidest, needs_points, needs_value>(block, geometry, map, grad_group, grad_map, dots);
        } else {
          if (needs_points && owns_output) {
            differentiate_group<kWidest, needs_points, false>(block, geometry, map, grad_group, grad_map, dots);
          }
          if constexpr (needs_value) {
            const auto owned = points.owned(block);
            differentiate_group<kWidest, false, true>(owned, geometry, map, grad_group, grad_map, dots);
          }
        }
        if (needs_points && owns_output) {
          points.write_gradients(PointGradients<acc_t>(block, dots), group, index);
        }
      }
    }
  }
}

template <typename op_t>
void forward(const Call<op_t>& call, int64_t first, int64_t last) {
  for_dtypes(call.value_dtype, call.points_dtype, [&](auto dtypes) {
    using D = decltype(dtypes);
    forward_outputs<op_t, typename D::value_t, typename D::points_t, typename D::acc_t>(call, first, last);
  });
}

template <typename op_t>
void backward(const Call<op_t>& call, const cpu::Slice& slice) {
  for_dtypes(call.value_dtype, call.points_dtype, [&](auto dtypes) {
    using D = decltype(dtypes);
    using value_t = typename D::value_t;
    using points_t = typename D::points_t;
    using acc_t = typename D::acc_t;
    if (!call.needs_grad_points()) {
      backward_slice<false, true, op_t, value_t, points_t, acc_t>(call, slice);
    } else if (call.grad_value == nullptr) {
      backward_slice<true, false, op_t, value_t, points_t, acc_t>(call, slice);
    } else {
      backward_slice<true, true, op_t, value_t, points_t, acc_t>(call, slice);
    }
  });
}

template <typename op_t>
cpu::KernelTable<op_t> kernels() {
  return {&forward<op_t>, &backward<op_t>};
}

} // namespace flash_internimage::FLASH_INTERNIMAGE_ISA
