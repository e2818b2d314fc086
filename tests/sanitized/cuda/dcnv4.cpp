#include "dcnv4/dcnv4_cuda_kernel.cuh"
#include "geometry.h"
#include "operators.h"
#include "queue.h"

namespace cuda_emulator {

namespace {

using namespace flash_internimage::dcnv4;

void run_request(const sanitized::Request& request) {
  const CudaCall call = {
      sanitized::dcnv4_geometry(request), request.dtype("value_dtype"),
      request.dtype("points_dtype"),      request.buffer("offset_mask"),
      request.buffer("grad_offset_mask"), buffers(request, request.buffer("grad_offset_mask") != nullptr)};
  run_kernel(
      request, [&](auto is_forward, const Queue& queue) { run_cuda<is_forward>(call, queue); },
      [&](auto is_forward, auto index, const Queue& queue) {
        run_cuda_indexed<is_forward, decltype(index)>(call, queue);
      });
}

const bool added = sanitized::add_operator("dcnv4", &run_request);

} // namespace

} // namespace cuda_emulator
