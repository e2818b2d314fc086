// Grid and block of a launch, from sizes and device properties. Plain arithmetic, so it is tested without a GPU.

#pragma once

#include <algorithm>
#include <cstdint>

namespace flash_internimage::cuda {

struct DeviceLimits {
  int64_t warp_size;
  int64_t multiprocessors;
  int64_t threads_per_multiprocessor;
  int64_t shared_bytes_per_multiprocessor;
  int64_t shared_bytes_per_block;
  int64_t blocks_per_grid;
};

/// The work of a kernel. A unit is one group of channels of one output, and sums over its own points.
struct Work {
  int64_t units;
  int64_t channels; // of a unit
  int64_t vector_width; // channels that a thread reads at once
  int64_t points; // of a unit
  int64_t bytes_per_point; // in shared memory
};

struct Launch {
  int64_t lanes; // threads of one unit: a power of two within a warp, for sums by warp shuffles
  int64_t units_per_block;
  int64_t threads;
  int64_t points_per_pass; // whose sampling locations are in shared memory at a time
  int64_t shared_bytes;
  int64_t blocks;
};

inline Launch plan_launch(const Work& work, const DeviceLimits& limits) {
  Launch launch = {};
  const int64_t vectors = (work.channels + work.vector_width - 1) / work.vector_width;
  launch.lanes = 1;
  while (launch.lanes < vectors && launch.lanes < limits.warp_size) {
    launch.lanes *= 2;
  }
  // Four warps hide each other's latency at barriers; fewer if the blocks would not fill the device twice.
  launch.threads = 4 * limits.warp_size;
  while (launch.threads > limits.warp_size && work.units * launch.lanes < 2 * limits.multiprocessors * launch.threads) {
    launch.threads /= 2;
  }
  launch.units_per_block = launch.threads / launch.lanes;

  // Shared memory must not limit the number of resident blocks, as long as one point per unit fits.
  const int64_t resident = std::max<int64_t>(1, limits.threads_per_multiprocessor / launch.threads);
  const int64_t budget = std::min(limits.shared_bytes_per_block, limits.shared_bytes_per_multiprocessor / resident);
  const int64_t bytes = launch.units_per_block * work.bytes_per_point;
  const int64_t fitting = std::max<int64_t>(1, budget / bytes);
  const int64_t passes = std::max<int64_t>(1, (work.points + fitting - 1) / fitting);
  launch.points_per_pass = (work.points + passes - 1) / passes;
  launch.shared_bytes = launch.points_per_pass * bytes;

  const int64_t blocks = (work.units + launch.units_per_block - 1) / launch.units_per_block;
  launch.blocks = std::min(blocks, limits.blocks_per_grid);
  return launch;
}

} // namespace flash_internimage::cuda
