#include "ms_deform_attn/ms_deform_attn_cuda_kernel.cuh"
#include "operators.h"
#include "queue.h"

namespace cuda_emulator {

namespace {

using namespace flash_internimage::ms_deform_attn;

template <bool is_forward>
void run(const CudaCall& call, const flash_internimage::cuda::Queue& queue, int64_t index_bits) {
  switch (index_bits) {
    case 32:
      return run_cuda_indexed<is_forward, int32_t>(call, queue);
    case 64:
      return run_cuda_indexed<is_forward, int64_t>(call, queue);
    default:
      return run_cuda<is_forward>(call, queue);
  }
}

void run_request(const Request& request) {
  Geometry geometry = {};
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
  void* const grad_locations = request.buffer("grad_sampling_locations");
  void* const grad_weights = request.buffer("grad_attention_weights");
  const CudaCall call = {
      geometry,
      request.dtype("value_dtype"),
      request.dtype("points_dtype"),
      request.buffer("sampling_locations"),
      request.buffer("attention_weights"),
      grad_locations,
      grad_weights,
      buffers(request, grad_locations != nullptr || grad_weights != nullptr)};
  const int64_t index_bits = request.integer("index_bits");
  request.text("direction") == "forward" ? run<true>(call, queue(request), index_bits)
                                         : run<false>(call, queue(request), index_bits);
}

const bool added = add_operator("ms_deform_attn", &run_request);

} // namespace

} // namespace cuda_emulator
