#include "dcnv4/dcnv4_cuda_kernel.cuh"
#include "operators.h"
#include "queue.h"

namespace cuda_emulator {

namespace {

using namespace flash_internimage::dcnv4;

Axis axis(const Request& request, const std::string& name) {
  const std::vector<int64_t> numbers = request.integers(name);
  Axis axis = {};
  int32_t* const members[] = {&axis.size,   &axis.output_size, &axis.kernel_size,
                              &axis.stride, &axis.padding,     &axis.dilation};
  for (size_t i = 0; i < std::size(members); ++i) {
    *members[i] = static_cast<int32_t>(numbers.at(i));
  }
  return axis;
}

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
  const Geometry geometry = {
      request.integer("batch"),
      axis(request, "height"),
      axis(request, "width"),
      request.small("groups"),
      request.small("group_channels"),
      request.small("points"),
      request.integer("offset_mask_channels"),
      request.real("offset_scale"),
      request.integer("remove_center") != 0};
  const CudaCall call = {
      geometry,
      request.dtype("value_dtype"),
      request.dtype("points_dtype"),
      request.buffer("offset_mask"),
      request.buffer("grad_offset_mask"),
      buffers(request, request.buffer("grad_offset_mask") != nullptr)};
  const int64_t index_bits = request.integer("index_bits");
  request.text("direction") == "forward" ? run<true>(call, queue(request), index_bits)
                                         : run<false>(call, queue(request), index_bits);
}

const bool added = add_operator("dcnv4", &run_request);

} // namespace

} // namespace cuda_emulator
