// An operator's CUDA kernels as host code calls them. No tensors, and nothing that needs nvcc.

#pragma once

#include "../core/call.h"
#include "launch.h"

#include <cuda_runtime.h>

namespace flash_internimage::cuda {

/// Where kernels run.
struct Queue {
  DeviceLimits limits;
  cudaStream_t stream;
};

/// Defined in run.cuh, and instantiated by each <op>_cuda.cu.
template <typename op_t>
struct Kernels {
  static void forward(const Call<op_t>& call, const Queue& queue);
  static void backward(const Call<op_t>& call, const Queue& queue);
};

} // namespace flash_internimage::cuda
