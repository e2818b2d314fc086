// The CUDA kernels of every operator: weighted sums of bilinear samples, forward and backward.
//
// A unit is one group of channels of one output. The threads of a block first compute the sampling locations of its
// units together, into shared memory. Then the lanes of each unit, neighbors in a warp, loop over its points, each lane
// with its own channels.
//
// The output of unit u starts at element u * channels.

#pragma once

#include "../core/bilinear.h"
#include "../core/call.h"
#include "vector.cuh"

namespace flash_internimage::cuda {

/// A point on the feature map whose cell (0, 0) starts at element `origin` of value.
template <typename acc_t, typename index_t>
struct Located {
  BilinearPoint<acc_t> point;
  acc_t modulation;
  CellGrid<index_t> grid;
  index_t origin;
};

/// What the kernels of the operator `operator_t` are given, beside the buffers that all operators have.
template <typename operator_t, typename dtypes_t, typename index_type>
struct Problem {
  static constexpr size_t kPointTensors = operator_t::kPointTensors.size();
  using op_t = operator_t;
  using value_t = typename dtypes_t::value_t;
  using points_t = typename dtypes_t::points_t;
  using acc_t = typename dtypes_t::acc_t;
  using index_t = index_type;
  using located_t = Located<acc_t, index_t>;

  int64_t units;
  int32_t points; // of a unit
  int32_t channels; // of a unit
  index_t cell_stride;
  typename operator_t::Geometry geometry;
  const points_t* point_tensors[kPointTensors]; // in the order of op_t::kPointTensors
  points_t* grad_point_tensors[kPointTensors]; // null in a forward, or where not needed
};

/// Where the points of the operator `op_t` lie: each operator specializes this in <op>_points_cuda.cuh, with
///
///     located_t locate(const problem_t& problem, index_t unit, int32_t point);
///     void write_gradient(const problem_t& problem, index_t unit, int32_t point, acc_t y, acc_t x, acc_t modulation);
template <typename op_t>
struct Points;

/// A point in shared memory, as a forward needs it.
template <typename acc_t, typename index_t>
struct alignas(16) Sample {
  acc_t weight[kCorners]; // modulation x corner weight
  index_t first; // of corner 0, in elements of value
  index_t row_stride;
  int32_t corners;
};

/// A point in shared memory, as a backward needs it. The point's gradient then overwrites y, x and modulation.
template <typename acc_t, typename index_t>
struct alignas(16) DifferentiableSample : Sample<acc_t, index_t> {
  acc_t y;
  acc_t x;
  acc_t modulation;
};

/// The part of a `Launch` that kernels need.
struct Shares {
  int32_t lanes;
  int32_t units_per_block;
  int32_t points_per_pass;
};

template <typename acc_t, typename index_t>
__device__ __forceinline__ void fill(const Located<acc_t, index_t>& located, Sample<acc_t, index_t>& sample) {
#pragma unroll
  for (int corner = 0; corner < kCorners; ++corner) {
    sample.weight[corner] = located.modulation * corner_weight(located.point, corner);
  }
  sample.first = located.origin + corner_offset(located.point, 0, located.grid);
  sample.row_stride = located.grid.row_stride;
  sample.corners = located.point.corners;
}

template <typename acc_t, typename index_t>
__device__ __forceinline__ void fill(
    const Located<acc_t, index_t>& located, DifferentiableSample<acc_t, index_t>& sample) {
  fill(located, static_cast<Sample<acc_t, index_t>&>(sample));
  sample.y = located.point.dy;
  sample.x = located.point.dx;
  sample.modulation = located.modulation;
}

/// Computes the sampling locations of points [first_point, first_point + count) of the block's units, with all its
/// threads.
template <typename sample_t, typename problem_t>
__device__ __forceinline__ void locate_pass(
    const problem_t& problem,
    int64_t first_unit,
    int32_t units,
    int32_t first_point,
    int32_t count,
    sample_t* samples) {
  for (int32_t i = threadIdx.x; i < units * count; i += blockDim.x) {
    const auto unit = static_cast<typename problem_t::index_t>(first_unit + i / count);
    fill(Points<typename problem_t::op_t>::locate(problem, unit, first_point + i % count), samples[i]);
  }
}

template <typename acc_t, typename index_t>
__device__ __forceinline__ index_t corner_at(const Sample<acc_t, index_t>& sample, int corner, index_t cell_stride) {
  return sample.first + (corner >> 1) * sample.row_stride + (corner & 1) * cell_stride;
}

template <int width, typename problem_t>
__global__ void forward_kernel(
    problem_t problem,
    Shares shares,
    const typename problem_t::value_t* __restrict__ value,
    typename problem_t::value_t* __restrict__ output) {
  using acc_t = typename problem_t::acc_t;
  using sample_t = Sample<acc_t, typename problem_t::index_t>;
  extern __shared__ __align__(16) unsigned char shared[];
  sample_t* const samples = reinterpret_cast<sample_t*>(shared);

  const int32_t lane = threadIdx.x % shares.lanes;
  const int32_t own = threadIdx.x / shares.lanes;
  const int32_t stride = shares.lanes * width;
  const int64_t units_per_grid = static_cast<int64_t>(gridDim.x) * shares.units_per_block;
  const bool one_pass = problem.points <= shares.points_per_pass;
  for (int64_t first_unit = static_cast<int64_t>(blockIdx.x) * shares.units_per_block; first_unit < problem.units;
       first_unit += units_per_grid) {
    const int32_t units = min(static_cast<int64_t>(shares.units_per_block), problem.units - first_unit);
    // All threads take part in every turn, because the passes contain barriers.
    for (int32_t turn = 0; turn < problem.channels; turn += stride) {
      const int32_t channel = turn + lane * width;
      const bool works = own < units && channel < problem.channels;
      acc_t sum[width] = {};
      for (int32_t first_point = 0; first_point < problem.points; first_point += shares.points_per_pass) {
        const int32_t count = min(shares.points_per_pass, problem.points - first_point);
        if (!one_pass || turn == 0) {
          __syncthreads(); // until the samples before these are no longer needed
          locate_pass(problem, first_unit, units, first_point, count, samples);
          __syncthreads();
        }
        if (works) {
          for (int32_t i = own * count; i < (own + 1) * count; ++i) {
            const sample_t& sample = samples[i];
#pragma unroll
            for (int corner = 0; corner < kCorners; ++corner) {
              if (sample.corners >> corner & 1) {
                acc_t cell[width];
                load<width>(value + corner_at(sample, corner, problem.cell_stride) + channel, cell);
#pragma unroll
                for (int c = 0; c < width; ++c) {
                  sum[c] += sample.weight[corner] * cell[c];
                }
              }
            }
          }
        }
      }
      if (works) {
        store<width>(sum, output + (first_unit + own) * problem.channels + channel);
      }
    }
  }
}

/// Without gradients of value if `grad_value` is null, or without those of points unless `needs_points`.
template <int width, typename problem_t>
__global__ void backward_kernel(
    problem_t problem,
    Shares shares,
    bool needs_points,
    const typename problem_t::value_t* __restrict__ grad_output,
    const typename problem_t::value_t* __restrict__ value,
    typename problem_t::acc_t* __restrict__ grad_value) {
  using acc_t = typename problem_t::acc_t;
  using index_t = typename problem_t::index_t;
  using sample_t = DifferentiableSample<acc_t, index_t>;
  extern __shared__ __align__(16) unsigned char shared[];
  sample_t* const samples = reinterpret_cast<sample_t*>(shared);

  const int32_t lane = threadIdx.x % shares.lanes;
  const int32_t own = threadIdx.x / shares.lanes;
  const int32_t stride = shares.lanes * width;
  const int64_t units_per_grid = static_cast<int64_t>(gridDim.x) * shares.units_per_block;
  for (int64_t first_unit = static_cast<int64_t>(blockIdx.x) * shares.units_per_block; first_unit < problem.units;
       first_unit += units_per_grid) {
    const int32_t units = min(static_cast<int64_t>(shares.units_per_block), problem.units - first_unit);
    const bool has_unit = own < units;
    const typename problem_t::value_t* const unit_grad = grad_output + (first_unit + own) * problem.channels;
    acc_t grad[width] = {};
    if (has_unit && lane * width < problem.channels) {
      load<width>(unit_grad + lane * width, grad);
    }
    for (int32_t first_point = 0; first_point < problem.points; first_point += shares.points_per_pass) {
      const int32_t count = min(shares.points_per_pass, problem.points - first_point);
      __syncthreads(); // until the gradients before these are written
      locate_pass(problem, first_unit, units, first_point, count, samples);
      __syncthreads();
      // All threads take part in every point, because sums over lanes are warp-wide.
      for (int32_t i = 0; i < count; ++i) {
        acc_t dots[kCorners] = {};
        sample_t& sample = samples[own * count + i];
        const int32_t corners = has_unit ? sample.corners : 0;
        for (int32_t channel = lane * width; channel < problem.channels && corners != 0; channel += stride) {
          if (problem.channels > stride) {
            load<width>(unit_grad + channel, grad);
          }
#pragma unroll
          for (int corner = 0; corner < kCorners; ++corner) {
            if (corners >> corner & 1) {
              const index_t at = corner_at(sample, corner, problem.cell_stride) + channel;
              if (needs_points) {
                acc_t cell[width];
                load<width>(value + at, cell);
#pragma unroll
                for (int c = 0; c < width; ++c) {
                  dots[corner] += grad[c] * cell[c];
                }
              }
              if (grad_value != nullptr) {
                add_atomically<width>(sample.weight[corner], grad, grad_value + at);
              }
            }
          }
        }
        if (needs_points) {
          const acc_t dy = corners != 0 ? sample.y : acc_t(0);
          const acc_t dx = corners != 0 ? sample.x : acc_t(0);
          const BilinearPoint<acc_t> point = {0, 0, dy, dx, corners};
          const BilinearGradient<acc_t> slope = interpolate_gradient(point, dots[0], dots[1], dots[2], dots[3]);
          const acc_t y = sum_over_lanes(slope.y, shares.lanes);
          const acc_t x = sum_over_lanes(slope.x, shares.lanes);
          const acc_t sampled = sum_over_lanes(interpolate(point, dots[0], dots[1], dots[2], dots[3]), shares.lanes);
          __syncwarp(); // until every lane has read y and x
          if (has_unit && lane == 0) {
            // Points outside the feature map get exact zeros, even if their modulation is infinite or NaN.
            sample.y = corners != 0 ? y * sample.modulation : acc_t(0);
            sample.x = corners != 0 ? x * sample.modulation : acc_t(0);
            sample.modulation = corners != 0 ? sampled : acc_t(0);
          }
        }
      }
      if (needs_points) {
        __syncthreads();
        for (int32_t i = threadIdx.x; i < units * count; i += blockDim.x) {
          Points<typename problem_t::op_t>::write_gradient(
              problem, static_cast<index_t>(first_unit + i / count), first_point + i % count, samples[i].y,
              samples[i].x, samples[i].modulation);
        }
      }
    }
  }
}

} // namespace flash_internimage::cuda
