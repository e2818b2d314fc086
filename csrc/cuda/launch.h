// Grid and block of a launch, from sizes and device properties. Plain arithmetic, so it is tested without a GPU.

#pragma once

#include <algorithm>
#include <cstdint>

namespace flash_internimage::cuda {

constexpr int kWarpThreads = 32;
/// Kernels are compiled for blocks of at most this many threads, of which a multiprocessor holds at least this many
/// blocks: half of its threads or more. Warps do not wait for each other, but the units of a block are neighbors, and
/// share what they read in the L1 cache.
constexpr int kBlockThreads = 256;
constexpr int kResidentBlocks = 4;

struct DeviceLimits {
  int64_t multiprocessors;
  int64_t blocks_per_grid;
  bool vector_atomics; // four floats in one transaction, from compute capability 9.0
};

/// The work of a kernel. A unit is one group of channels of one output, and sums over its own points.
struct Work {
  int64_t units;
  int64_t channels; // of a unit
  int64_t width; // channels that a thread reads at once
};

struct Launch {
  int64_t lanes; // threads of one unit: a power of two within a warp, for sums by warp shuffles
  int64_t units_per_block;
  int64_t threads;
  int64_t blocks;
};

inline Launch plan_launch(const Work& work, const DeviceLimits& limits) {
  Launch launch = {};
  launch.lanes = 1;
  while (launch.lanes * work.width < work.channels && launch.lanes < kWarpThreads) {
    launch.lanes *= 2;
  }
  // Use smaller blocks if there are too few for two on each multiprocessor.
  launch.threads = kBlockThreads;
  while (launch.threads > kWarpThreads && work.units * launch.lanes < 2 * limits.multiprocessors * launch.threads) {
    launch.threads /= 2;
  }
  launch.units_per_block = launch.threads / launch.lanes;
  const int64_t blocks = (work.units + launch.units_per_block - 1) / launch.units_per_block;
  launch.blocks = std::min(blocks, limits.blocks_per_grid);
  return launch;
}

} // namespace flash_internimage::cuda
