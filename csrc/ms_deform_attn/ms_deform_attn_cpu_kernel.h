// The loops over queries, heads, points and channels, compiled once for each instruction set.
// Include after cpu/isa_*.h; ms_deform_attn_cpu_includes.h lists what has to come before that.

#include "../cpu/pack.h"
#include "../cpu/point_block.h"
#include "../cpu/sampling.h"
#include "ms_deform_attn_cpu_points.h"

namespace flash_internimage::ms_deform_attn::FLASH_INTERNIMAGE_ISA {

/// A usual head in one go, so that the points are walked once.
constexpr int kHeadPack = 32;

template <typename value_t, typename points_t, typename acc_t>
void forward_queries(const ForwardCall& call, int64_t first, int64_t last) {
  const Geometry& geometry = call.geometry;
  const int64_t channels = geometry.channels();
  Points<acc_t, points_t> points(geometry, call.sampling_locations, call.attention_weights, 0, geometry.levels);

  for (int64_t query = first; query < last; ++query) {
    const value_t* image =
        static_cast<const value_t*>(call.value) + query / geometry.queries * geometry.tokens * channels;
    value_t* output = static_cast<value_t*>(call.output) + query * channels;
    for (int32_t head = 0; head < geometry.heads; ++head) {
      points.locate(query * geometry.heads + head);
      for_each_pack<kHeadPack>(geometry.head_channels, [&](auto width, int64_t channel) {
        const int64_t offset = static_cast<int64_t>(head) * geometry.head_channels + channel;
        SampleSum<acc_t, width> sum;
        for (const PointBlock<acc_t>& block : points.blocks()) {
          sum.add(block, image + offset, channels);
        }
        sum.store(output + offset);
      });
    }
  }
}

/// Writes what a block of points at `first`, an index into attention_weights, contributes to the gradients of points.
template <typename points_t, typename acc_t>
C10_ALWAYS_INLINE void write_point_gradients(
    const BackwardCall& call, const PointBlock<acc_t>& block, const CornerDots<acc_t>& dots, int64_t first) {
  const PointGradients<acc_t> gradients(block, dots);
  if (call.grad_sampling_locations != nullptr) {
    points_t* grad_locations = static_cast<points_t*>(call.grad_sampling_locations) + 2 * first;
    for (int i = 0; i < block.count; ++i) {
      grad_locations[2 * i] = static_cast<points_t>(gradients.x[i] * static_cast<acc_t>(block.width[i]));
      grad_locations[2 * i + 1] = static_cast<points_t>(gradients.y[i] * static_cast<acc_t>(block.height[i]));
    }
  }
  if (call.grad_attention_weights != nullptr) {
    points_t* grad_weights = static_cast<points_t*>(call.grad_attention_weights) + first;
    for (int i = 0; i < block.count; ++i) {
      grad_weights[i] = static_cast<points_t>(gradients.factor[i]);
    }
  }
}

template <bool wants_points, bool wants_grad_value, typename value_t, typename points_t, typename acc_t>
void walk_slice(const BackwardCall& call, const BackwardSlice& slice) {
  const Geometry& geometry = call.geometry;
  const int64_t channels = geometry.channels();
  const int64_t first_element = slice.image * geometry.tokens * channels;
  const value_t* image = static_cast<const value_t*>(call.value) + first_element;
  acc_t* grad_image = wants_grad_value ? static_cast<acc_t*>(call.grad_value) + first_element : nullptr;
  Points<acc_t, points_t> points(
      geometry, call.sampling_locations, call.attention_weights, slice.first_level, slice.last_level);

  const int64_t first_query = slice.image * geometry.queries;
  for (int64_t query = first_query; query < first_query + geometry.queries; ++query) {
    for (int32_t head = slice.first_head; head < slice.last_head; ++head) {
      const int64_t query_head = query * geometry.heads + head;
      points.locate(query_head);
      const int64_t first_channel = static_cast<int64_t>(head) * geometry.head_channels;
      const value_t* grad_output = static_cast<const value_t*>(call.grad_output) + query * channels + first_channel;
      for (size_t index = 0; index < points.blocks().size(); ++index) {
        const PointBlock<acc_t>& block = points.blocks()[index];
        CornerDots<acc_t> dots;
        for_each_pack<kHeadPack>(geometry.head_channels, [&](auto width, int64_t channel) {
          const value_t* map = image + first_channel + channel;
          acc_t* grad_map = wants_grad_value ? grad_image + first_channel + channel : nullptr;
          differentiate<wants_points, wants_grad_value, width>(
              block, map, grad_map, channels, grad_output + channel, dots);
        });
        if (wants_points) {
          write_point_gradients<points_t>(
              call, block, dots, points.first(query_head) + static_cast<int64_t>(index) * kBlock);
        }
      }
    }
  }
}

template <typename value_t, typename points_t, typename acc_t>
void backward_slice(const BackwardCall& call, const BackwardSlice& slice) {
  if (call.grad_sampling_locations == nullptr && call.grad_attention_weights == nullptr) {
    walk_slice<false, true, value_t, points_t, acc_t>(call, slice);
  } else if (call.grad_value == nullptr) {
    walk_slice<true, false, value_t, points_t, acc_t>(call, slice);
  } else {
    walk_slice<true, true, value_t, points_t, acc_t>(call, slice);
  }
}

void forward(const ForwardCall& call, int64_t first, int64_t last) {
  for_dtypes(call.value_dtype, call.points_dtype, [&](auto dtypes) {
    using D = decltype(dtypes);
    forward_queries<typename D::value_t, typename D::points_t, typename D::acc_t>(call, first, last);
  });
}

void backward(const BackwardCall& call, const BackwardSlice& slice) {
  for_dtypes(call.value_dtype, call.points_dtype, [&](auto dtypes) {
    using D = decltype(dtypes);
    backward_slice<typename D::value_t, typename D::points_t, typename D::acc_t>(call, slice);
  });
}

const Kernels kernels = {&forward, &backward};

} // namespace flash_internimage::ms_deform_attn::FLASH_INTERNIMAGE_ISA
