// The CUDA kernels of DCNv4 for every dtype and size. No tensors.

#pragma once

#include "../cuda/run.cuh"
#include "dcnv4_points.cuh"

namespace flash_internimage::dcnv4 {

/// A forward or backward. Everything is contiguous, and there is an output to write or to take the gradient of.
struct CudaCall {
  Geometry geometry;
  c10::ScalarType value_dtype;
  c10::ScalarType offset_mask_dtype;
  const void* offset_mask;
  void* grad_offset_mask; // written up to the tail, or null: in a forward, or where it is not wanted
  cuda::Buffers buffers;
};

template <bool is_forward, typename index_t>
void run_cuda_indexed(const CudaCall& call, const cuda::Queue& queue) {
  const Geometry& geometry = call.geometry;
  for_dtypes(call.value_dtype, call.offset_mask_dtype, [&](auto dtypes) {
    using D = decltype(dtypes);
    using offset_t = typename D::points_t;
    const Points<typename D::value_t, offset_t, typename D::acc_t, index_t> points = {
        geometry.batch * geometry.output_cells() * geometry.groups,
        geometry.points,
        geometry.group_channels,
        static_cast<index_t>(geometry.channels()),
        geometry,
        static_cast<const offset_t*>(call.offset_mask),
        static_cast<offset_t*>(call.grad_offset_mask)};
    cuda::run<is_forward>(points, call.buffers, queue);
  });
}

template <bool is_forward>
void run_cuda(const CudaCall& call, const cuda::Queue& queue) {
  const Geometry& geometry = call.geometry;
  const int64_t input_cells = geometry.batch * geometry.input_cells();
  const int64_t output_cells = geometry.batch * geometry.output_cells();
  cuda::for_index_type(
      {input_cells * geometry.channels(), output_cells * geometry.channels(),
       output_cells * geometry.offset_mask_channels},
      [&](auto index_zero) { run_cuda_indexed<is_forward, decltype(index_zero)>(call, queue); });
}

} // namespace flash_internimage::dcnv4
