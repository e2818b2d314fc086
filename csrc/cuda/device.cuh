// The device in use, as PyTorch has chosen it.

#pragma once

#include "run.cuh"

#include <ATen/cuda/CUDAContext.h>

#include <cstdint>

namespace flash_internimage::cuda {

/// What the kernels need to know of the current device, and its current stream.
inline Queue current_queue() {
  const cudaDeviceProp& properties = *at::cuda::getCurrentDeviceProperties();
  const DeviceLimits limits = {
      properties.warpSize,
      properties.multiProcessorCount,
      properties.maxThreadsPerMultiProcessor,
      static_cast<int64_t>(properties.sharedMemPerMultiprocessor),
      static_cast<int64_t>(properties.sharedMemPerBlock),
      properties.maxGridSize[0]};
  return {limits, at::cuda::getCurrentCUDAStream()};
}

} // namespace flash_internimage::cuda
