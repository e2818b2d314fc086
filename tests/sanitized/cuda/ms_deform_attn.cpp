#include "geometry.h"
#include "ms_deform_attn/ms_deform_attn_cuda_kernel.cuh"
#include "operators.h"
#include "queue.h"

namespace cuda_emulator {

namespace {

using namespace flash_internimage::ms_deform_attn;

void run_request(const sanitized::Request& request) {
  void* const grad_locations = request.buffer("grad_sampling_locations");
  void* const grad_weights = request.buffer("grad_attention_weights");
  const CudaCall call = {
      sanitized::ms_deform_attn_geometry(request),
      request.dtype("value_dtype"),
      request.dtype("points_dtype"),
      request.buffer("sampling_locations"),
      request.buffer("attention_weights"),
      grad_locations,
      grad_weights,
      buffers(request, grad_locations != nullptr || grad_weights != nullptr)};
  run_kernel(
      request, [&](auto is_forward, const Queue& queue) { run_cuda<is_forward>(call, queue); },
      [&](auto is_forward, auto index, const Queue& queue) {
        run_cuda_indexed<is_forward, decltype(index)>(call, queue);
      });
}

const bool added = sanitized::add_operator("ms_deform_attn", &run_request);

} // namespace

} // namespace cuda_emulator
