// Runs an operator's CUDA kernels on the device and stream that PyTorch has chosen.

#pragma once

#include "kernels.h"

#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAGuard.h>

#include <cstdint>

namespace flash_internimage::cuda {

/// The limits of the current device, and its current stream.
inline Queue current_queue() {
  const cudaDeviceProp& properties = *at::cuda::getCurrentDeviceProperties();
  const DeviceLimits limits = {properties.multiProcessorCount, properties.maxGridSize[0], properties.major >= 9};
  return {limits, at::cuda::getCurrentCUDAStream()};
}

struct Device {
  static constexpr bool kDeterministic = false; // atomics sum the gradient of value in any order
  static constexpr bool kWritesUnused = true; // see Geometry::unused_point_elements
  using Guard = c10::cuda::CUDAGuard;

  template <typename op_t>
  static void forward(const Call<op_t>& call) {
    Kernels<op_t>::forward(call, current_queue());
  }
  template <typename op_t>
  static void backward(const Call<op_t>& call) {
    Kernels<op_t>::backward(call, current_queue());
  }
};

} // namespace flash_internimage::cuda
