// The CUDA kernels of multi-scale deformable attention for every dtype and size. No tensors.

#pragma once

#include "../cuda/run.cuh"
#include "ms_deform_attn_points.cuh"

namespace flash_internimage::ms_deform_attn {

/// A forward or backward. Everything is contiguous, and there is an output to write or to take the gradient of.
struct CudaCall {
  Geometry geometry;
  c10::ScalarType value_dtype;
  c10::ScalarType locations_dtype; // and that of the weights
  const void* sampling_locations;
  const void* attention_weights;
  void* grad_sampling_locations; // null in a forward, or where it is not wanted, as the next
  void* grad_attention_weights;
  cuda::Buffers buffers;
};

template <bool is_forward, typename index_t>
void run_cuda_indexed(const CudaCall& call, const cuda::Queue& queue) {
  const Geometry& geometry = call.geometry;
  for_dtypes(call.value_dtype, call.locations_dtype, [&](auto dtypes) {
    using D = decltype(dtypes);
    using location_t = typename D::points_t;
    const Points<typename D::value_t, location_t, typename D::acc_t, index_t> points = {
        geometry.batch * geometry.queries * geometry.heads,
        geometry.head_points(),
        geometry.head_channels,
        static_cast<index_t>(geometry.channels()),
        geometry,
        static_cast<const location_t*>(call.sampling_locations),
        static_cast<const location_t*>(call.attention_weights),
        static_cast<location_t*>(call.grad_sampling_locations),
        static_cast<location_t*>(call.grad_attention_weights)};
    cuda::run<is_forward>(points, call.buffers, queue);
  });
}

template <bool is_forward>
void run_cuda(const CudaCall& call, const cuda::Queue& queue) {
  const Geometry& geometry = call.geometry;
  const int64_t outputs = geometry.batch * geometry.queries * geometry.channels();
  const int64_t locations = geometry.batch * geometry.queries * geometry.heads * geometry.head_points() * 2;
  cuda::for_index_type(
      {geometry.batch * geometry.tokens * geometry.channels(), outputs, locations},
      [&](auto index_zero) { run_cuda_indexed<is_forward, decltype(index_zero)>(call, queue); });
}

} // namespace flash_internimage::ms_deform_attn
