// The device and the launch that a request describes.

#pragma once

#include "accesses.h"
#include "cuda/run.cuh"
#include "machine.h"
#include "request.h"

#include <memory>
#include <type_traits>
#include <vector>

namespace cuda_emulator {

using flash_internimage::cuda::Queue;

inline Queue queue(const sanitized::Request& request) {
  return {
      {kWarpSize, request.integer("multiprocessors"), request.integer("threads_per_multiprocessor"),
       request.integer("shared_bytes_per_multiprocessor"), request.integer("shared_bytes_per_block"),
       request.integer("blocks_per_grid")},
      nullptr};
}

inline flash_internimage::cuda::Buffers buffers(const sanitized::Request& request, bool wants_points) {
  return {
      request.buffer("value"), request.buffer("output"), request.buffer("grad_output"), request.buffer("grad_value"),
      wants_points};
}

/// Calls `run(is_forward, queue)`, or `run_indexed(is_forward, index, queue)` where the request names the index type,
/// with its turns of threads and its blocks, and with access to its buffers and nothing else.
template <typename run_t, typename run_indexed_t>
void run_kernel(const sanitized::Request& request, const run_t& run, const run_indexed_t& run_indexed) {
  schedule.order = request.integer("order");
  schedule.first_block = static_cast<unsigned>(request.integer("first_block"));
  schedule.last_block = static_cast<unsigned>(request.integer("last_block"));
  std::vector<std::unique_ptr<Region>> accessible;
  for (const auto& buffer : request.buffers()) {
    accessible.push_back(
        std::make_unique<Region>(buffer->name.c_str(), buffer->data(), buffer->bytes, buffer->writable));
  }
  const auto choose_index = [&](auto is_forward) {
    switch (request.integer("index_bits")) {
      case 32:
        return run_indexed(is_forward, int32_t(), queue(request));
      case 64:
        return run_indexed(is_forward, int64_t(), queue(request));
      default:
        return run(is_forward, queue(request));
    }
  };
  request.is_forward() ? choose_index(std::true_type()) : choose_index(std::false_type());
}

} // namespace cuda_emulator
