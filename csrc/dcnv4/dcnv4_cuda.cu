#include "../cuda/run.cuh"
#include "dcnv4_points_cuda.cuh"

template struct flash_internimage::cuda::Kernels<flash_internimage::dcnv4::Operator>;
