// The device that a request describes.

#pragma once

#include "cuda/run.cuh"
#include "request.h"

namespace cuda_emulator {

inline flash_internimage::cuda::Queue queue(const Request& request) {
  return {
      {kWarpSize, request.integer("multiprocessors"), request.integer("threads_per_multiprocessor"),
       request.integer("shared_bytes_per_multiprocessor"), request.integer("shared_bytes_per_block"),
       request.integer("blocks_per_grid")},
      nullptr};
}

inline flash_internimage::cuda::Buffers buffers(const Request& request, bool wants_points) {
  return {
      request.buffer("value"), request.buffer("output"), request.buffer("grad_output"), request.buffer("grad_value"),
      wants_points};
}

} // namespace cuda_emulator
