#include "../cuda/run.cuh"
#include "ms_deform_attn_points_cuda.cuh"

template struct flash_internimage::cuda::Kernels<flash_internimage::ms_deform_attn::Operator>;
