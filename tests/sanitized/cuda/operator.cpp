// Runs a request on the CUDA kernels of OPERATOR, whose <op>_points_cuda.cuh is included on the command line.

#include "accesses.h"
#include "call.h"
#include "cuda/run.cuh"
#include "machine.h"
#include "registry.h"

#include <memory>
#include <vector>

namespace cuda_emulator {

namespace {

using op_t = flash_internimage::OPERATOR::Operator;
using flash_internimage::cuda::Queue;

Queue read_queue(const sanitized::Request& request) {
  return {{request.integer("multiprocessors"), request.integer("blocks_per_grid"), __CUDA_ARCH__ >= 900}, nullptr};
}

/// With the index type that the request names, or the one that the sizes need.
template <bool is_forward>
void run_kernel(const sanitized::Request& request) {
  using namespace flash_internimage::cuda;
  const auto call = sanitized::read_call<op_t>(request);
  const Queue queue = read_queue(request);
  switch (request.integer("index_bits")) {
    case 32:
      return run_indexed<is_forward, int32_t>(call, queue);
    case 64:
      return run_indexed<is_forward, int64_t>(call, queue);
    default:
      return run<is_forward>(call, queue);
  }
}

/// Runs the blocks that the request names, its threads in the order that it names. Kernels may access its buffers only.
void run_request(const sanitized::Request& request) {
  schedule.order = request.integer("order");
  schedule.first_block = static_cast<unsigned>(request.integer("first_block"));
  schedule.last_block = static_cast<unsigned>(request.integer("last_block"));
  std::vector<std::unique_ptr<Region>> accessible;
  for (const auto& buffer : request.buffers()) {
    accessible.push_back(
        std::make_unique<Region>(buffer->name.c_str(), buffer->data(), buffer->bytes, buffer->writable));
  }
  request.is_forward() ? run_kernel<true>(request) : run_kernel<false>(request);
}

const bool added = sanitized::add_operator(op_t::kName, &run_request);

} // namespace

} // namespace cuda_emulator
