// The CUDA kernels of every operator: weighted sums of bilinear samples, forward and backward.
//
// A unit is one group of channels of one output. Its lanes, neighbors in a warp, first compute the sampling location of
// one point each. Then they sample these points together, each lane its own channels, and pass the locations to each
// other by warp shuffles. There is no shared memory, and no barrier.

#pragma once

#include "../core/bilinear.h"
#include "../core/call.h"
#include "launch.h"
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

/// Where the points of the operator `op_t` lie. Each operator specializes this in <op>_points_cuda.cuh:
///
///     explicit Points(const Call<op_t>& call);         on the host: all that a launch needs to know of the geometry
///     class Unit {                                     what the points of a unit have in common
///       Unit(const Points& points, index_t number);
///       index_t output() const;                        first element in the output
///       numbers_t read(int32_t point) const;           the point's numbers in the point tensors, as they are there
///       located_t locate(int32_t point, const numbers_t& numbers) const;
///       located_t locate_usual(int32_t point, const numbers_t& numbers) const;   of op_t::kUsualPoints, if that is not 0
///       void write_gradient(int32_t point, acc_t y, acc_t x, acc_t modulation) const;
///       void write_unused(int32_t lane, int32_t lanes) const;   zeros, where the point tensors have no point
///     };
template <typename op_t, typename dtypes_t, typename index_t>
class Points;

/// The argument of a kernel, beside the buffers that all operators have.
template <typename op_t, typename dtypes_t, typename index_type>
struct Problem {
  using value_t = typename dtypes_t::value_t;
  using acc_t = typename dtypes_t::acc_t;
  using index_t = index_type;
  using points_t = Points<op_t, dtypes_t, index_t>;

  index_t units;
  int32_t lanes; // of a unit
  int32_t points; // of a unit
  int32_t channels; // of a unit
  index_t cell_stride;
  points_t where;
};

/// The weights and addresses of a point's corners.
template <typename acc_t, typename index_t>
struct Sample {
  acc_t weight[kCorners]; // modulation x corner weight, or -0 for corners outside the feature map
  index_t first; // of corner 0, in elements of value
  index_t row_stride;
  int32_t corners; // from bit 1 on, because machine code has one instruction that reads bits 1 to 6 as conditions

  explicit __device__ __forceinline__ Sample(const Located<acc_t, index_t>& located)
      : first(located.origin + corner_offset(located.point, 0, located.grid)),
        row_stride(located.grid.row_stride),
        corners(located.point.corners << 1) {
    const acc_t below = located.modulation * located.point.dy;
    const acc_t above = located.modulation * (acc_t(1) - located.point.dy);
#pragma unroll
    for (int corner = 0; corner < kCorners; ++corner) {
      const acc_t row = corner >> 1 ? below : above;
      const acc_t product = row * (corner & 1 ? located.point.dx : acc_t(1) - located.point.dx);
      // The sign lets the compiler select by a condition. It would compute a mask for positive zero.
      weight[corner] = has(corners, corner) ? product : -acc_t(0);
    }
  }

  static __device__ __forceinline__ bool has(int32_t corners, int corner) {
    return corners & 2 << corner;
  }

  /// Returns the sample of another lane of the unit. All threads of the warp must call this.
  __device__ __forceinline__ Sample of_lane(int32_t lane, int32_t lanes) const {
    Sample sample = *this;
#pragma unroll
    for (int corner = 0; corner < kCorners; ++corner) {
      sample.weight[corner] = __shfl_sync(kWholeWarp, weight[corner], lane, lanes);
    }
    sample.first = __shfl_sync(kWholeWarp, first, lane, lanes);
    sample.row_stride = __shfl_sync(kWholeWarp, row_stride, lane, lanes);
    sample.corners = __shfl_sync(kWholeWarp, corners, lane, lanes);
    return sample;
  }

  __device__ __forceinline__ index_t at(int corner, index_t cell_stride) const {
    return first + (corner >> 1) * row_stride + (corner & 1) * cell_stride;
  }

  /// Reads the channels at those corners that `which` has; the others stay zero. All loads come before the first use,
  /// so that they are in flight together.
  template <typename value_t, int width>
  __device__ __forceinline__ void load(
      int32_t which,
      const value_t* value,
      index_t cell_stride,
      int32_t word_distance,
      Channels<value_t, width> (&cells)[kCorners]) const {
    // Prevents a sum of three terms for corner 3, for which the compiler would read the stride once more.
    const index_t right = kept<index_t>(first + cell_stride);
#pragma unroll
    for (int corner = 0; corner < kCorners; ++corner) {
      if (has(which, corner)) {
        cells[corner].load(value + ((corner & 1 ? right : first) + (corner >> 1) * row_stride), word_distance);
      }
    }
  }
};

/// The blocks of a kernel that a multiprocessor should hold, by which the compiler limits its registers: as many as do
/// not make it spill.
template <int fixed_lanes, typename problem_t>
constexpr int resident_blocks() {
  return sizeof(typename problem_t::acc_t) > sizeof(float) ? 2 : fixed_lanes == 0 ? 3 : 4;
}

/// A thread's place in its block. Kernels have a fixed number of lanes, whose channels are exactly those of a unit, or
/// any number if `fixed_lanes` is 0.
template <int fixed_lanes>
struct Place {
  int32_t lanes;
  int32_t lane;
  int32_t unit;
  int32_t units_per_block;

  explicit __device__ __forceinline__ Place(int32_t any_lanes)
      : lanes(fixed_lanes > 0 ? fixed_lanes : any_lanes),
        lane(static_cast<int32_t>(threadIdx.x) & (lanes - 1)),
        unit(static_cast<int32_t>(threadIdx.x / static_cast<unsigned>(lanes))),
        units_per_block(static_cast<int32_t>(blockDim.x / static_cast<unsigned>(lanes))) {}

  /// The lane's first channel, and the distance of its words. The lanes' first words are neighbors, and so on, so that
  /// they access whole sectors of memory together, unless some lanes may have no channels.
  template <typename channels_t>
  __device__ __forceinline__ int32_t first_channel() const {
    return lane * (fixed_lanes > 0 ? channels_t::kPerWord : channels_t::kPerWord * channels_t::kWords);
  }
  template <typename channels_t>
  __device__ __forceinline__ int32_t word_distance() const {
    return channels_t::kPerWord * (fixed_lanes > 0 ? lanes : 1);
  }
};

/// Locates a point of a unit; `fixed_points` is the unit's number of points, or 0 if that is not known.
template <int fixed_points, typename unit_t, typename numbers_t>
__device__ __forceinline__ auto located(const unit_t& unit, int32_t point, const numbers_t& numbers) {
  if constexpr (fixed_points > 0) {
    return unit.locate_usual(point, numbers);
  } else {
    return unit.locate(point, numbers);
  }
}

/// Computes the output: the sum over the points of each unit. If their number is known, and not 0, passes are unrolled:
/// the compiler overlaps them, and computes addresses at compile time.
template <int width, int fixed_lanes, int fixed_points, typename problem_t>
__global__ void __launch_bounds__(kBlockThreads, resident_blocks<fixed_lanes, problem_t>()) forward_kernel(
    const __grid_constant__ problem_t problem,
    const typename problem_t::value_t* __restrict__ value,
    typename problem_t::value_t* __restrict__ output) {
  using value_t = typename problem_t::value_t;
  using acc_t = typename problem_t::acc_t;
  using index_t = typename problem_t::index_t;
  using channels_t = Channels<value_t, width>;
  const Place<fixed_lanes> place(problem.lanes);
  const int32_t lanes = place.lanes;
  const int32_t first_channel = place.template first_channel<channels_t>();
  const int32_t word_distance = place.template word_distance<channels_t>();
  const int32_t last_point = (fixed_points > 0 ? fixed_points : problem.points) - 1;

  // All threads of a warp take part in every point, because they exchange samples.
  for (index_t left = problem.units - static_cast<index_t>(blockIdx.x) * place.units_per_block; left > 0;
       left -= static_cast<index_t>(gridDim.x) * place.units_per_block) {
    const bool has_unit = place.unit < left;
    const typename problem_t::points_t::Unit unit(problem.where, problem.units - (has_unit ? left - place.unit : 1));
    for (int32_t turn = 0; fixed_lanes > 0 || turn < problem.channels; turn += lanes * width) {
      const int32_t channel = turn + first_channel;
      const bool works = has_unit && (fixed_lanes > 0 || channel < problem.channels);
      const value_t* const cells_of_lane = kept(value + channel);
      acc_t sum[width] = {};
      auto numbers = unit.read(min(place.lane, last_point));
#pragma unroll(fixed_points > 0 ? fixed_points : 1)
      for (int32_t pass = 0; pass <= last_point; pass += lanes) {
        const int32_t own = min(pass + place.lane, last_point);
        const Sample<acc_t, index_t> own_sample(located<fixed_points>(unit, own, numbers));
        numbers = unit.read(min(own + lanes, last_point)); // of the next pass, while this one is computed
#pragma unroll
        for (int32_t lane = 0; lane < lanes; ++lane) {
          if (pass + lane > last_point) {
            break;
          }
          const auto sample = own_sample.of_lane(lane, lanes);
          channels_t cells[kCorners];
          // Fixed lanes without a unit read the same as others, and store nothing.
          const int32_t corners = fixed_lanes > 0 || works ? sample.corners : 0;
          sample.load(corners, cells_of_lane, problem.cell_stride, word_distance, cells);
#pragma unroll
          for (int corner = 0; corner < kCorners; ++corner) {
            add_products(sum, sample.weight[corner], cells[corner]);
          }
        }
      }
      if (works) {
        channels_t result;
#pragma unroll
        for (int c = 0; c < width; ++c) {
          result[c] = static_cast<value_t>(sum[c]);
        }
        result.store(output + (unit.output() + channel), word_distance);
      }
      if (fixed_lanes > 0) {
        break; // fixed lanes take a single turn
      }
    }
  }
}

/// Computes the gradient of value unless `grad_value` is null, and those of the points if `needs_points`.
template <int width, int fixed_lanes, typename problem_t>
__global__ void __launch_bounds__(kBlockThreads, resident_blocks<fixed_lanes, problem_t>()) backward_kernel(
    const __grid_constant__ problem_t problem,
    bool needs_points,
    const typename problem_t::value_t* __restrict__ grad_output,
    const typename problem_t::value_t* __restrict__ value,
    typename problem_t::acc_t* __restrict__ grad_value) {
  using value_t = typename problem_t::value_t;
  using acc_t = typename problem_t::acc_t;
  using index_t = typename problem_t::index_t;
  using channels_t = Channels<value_t, width>;
  static_assert(channels_t::kWords == 1); // the distance between words is not used
  const Place<fixed_lanes> place(problem.lanes);
  const int32_t lanes = place.lanes;
  const int32_t last_point = problem.points - 1;
  const int32_t first_channel = place.lane * width;
  const value_t* const cells_of_lane = kept(value + first_channel);
  acc_t* const sums_of_lane = kept(grad_value + first_channel);
  const int32_t read = needs_points ? ~0 : 0;
  const int32_t added = grad_value != nullptr ? ~0 : 0;

  for (index_t left = problem.units - static_cast<index_t>(blockIdx.x) * place.units_per_block; left > 0;
       left -= static_cast<index_t>(gridDim.x) * place.units_per_block) {
    const bool has_unit = place.unit < left;
    const typename problem_t::points_t::Unit unit(problem.where, problem.units - (has_unit ? left - place.unit : 1));
    const value_t* const unit_grad = grad_output + unit.output();
    channels_t grad;
    if (fixed_lanes > 0 || first_channel < problem.channels) {
      grad.load(unit_grad + first_channel, 0);
    }
    for (int32_t pass = 0; pass <= last_point; pass += lanes) {
      const int32_t own = min(pass + place.lane, last_point);
      const Located<acc_t, index_t> located = unit.locate(own, unit.read(own));
      const Sample<acc_t, index_t> own_sample(located);
      acc_t own_dots[kCorners] = {};
      for (int32_t lane = 0; lane < lanes && pass + lane <= last_point; ++lane) {
        const auto sample = own_sample.of_lane(lane, lanes);
        const int32_t corners = has_unit ? sample.corners : 0;
        acc_t dots[kCorners] = {};
        for (int32_t turn = 0; fixed_lanes > 0 || turn + first_channel < problem.channels; turn += lanes * width) {
          if (fixed_lanes == 0) {
            grad.load(unit_grad + turn + first_channel, 0);
          }
          channels_t cells[kCorners];
          sample.load(corners & read, cells_of_lane + turn, problem.cell_stride, 0, cells);
          acc_t terms[width];
#pragma unroll
          for (int c = 0; c < width; ++c) {
            terms[c] = grad.template get<acc_t>(c);
          }
#pragma unroll
          for (int corner = 0; corner < kCorners; ++corner) {
            if (Sample<acc_t, index_t>::has(corners & added, corner)) {
              add_atomically<width>(
                  sample.weight[corner], terms, sums_of_lane + turn + sample.at(corner, problem.cell_stride));
            }
#pragma unroll
            for (int c = 0; c < width; ++c) {
              dots[corner] += terms[c] * cells[corner].template get<acc_t>(c);
            }
          }
          if (fixed_lanes > 0) {
            break;
          }
        }
        if (needs_points) {
          sum_over_lanes(dots, lanes);
#pragma unroll
          for (int corner = 0; corner < kCorners; ++corner) {
            own_dots[corner] = lane == place.lane ? dots[corner] : own_dots[corner];
          }
        }
      }
      if (needs_points && has_unit && pass + place.lane <= last_point) {
        // Points outside the feature map get exact zeros, even if their modulation is infinite or NaN.
        const bool inside = located.point.corners != 0;
        const BilinearGradient<acc_t> slope =
            interpolate_gradient(located.point, own_dots[0], own_dots[1], own_dots[2], own_dots[3]);
        unit.write_gradient(
            own, inside ? slope.y * located.modulation : acc_t(0), inside ? slope.x * located.modulation : acc_t(0),
            interpolate(located.point, own_dots[0], own_dots[1], own_dots[2], own_dots[3]));
      }
    }
    if (needs_points && has_unit) {
      unit.write_unused(place.lane, lanes);
    }
  }
}

} // namespace flash_internimage::cuda
