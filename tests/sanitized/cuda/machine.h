// An emulated GPU on the host, used by include/cuda_runtime.h: one block after the other, each thread a fiber.

#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>

namespace cuda_emulator {

constexpr unsigned kWarpSize = 32;
constexpr unsigned kMaxThreads = 1024;

struct Index {
  unsigned x = 1;
  unsigned y = 1;
  unsigned z = 1;

  Index() = default;
  explicit Index(unsigned x)
      : x(x) {}
};

extern Index thread_index;
extern Index block_index;
extern Index block_size;
extern Index grid_size;

/// Choices of a request that must not change the result.
struct Schedule {
  uint64_t order = 0; // seed for the order in which threads run; 0 for the order of their numbers
  unsigned first_block = 0; // the blocks before are skipped, for tensors of which only a part is allocated
  unsigned last_block = ~0u; // exclusive
};
extern Schedule schedule;

/// Ends the process with a message that names the running thread.
[[noreturn]] void fault(const char* format, ...) __attribute__((format(printf, 1, 2)));

/// Calls `enter(call)` in every thread of the grid.
void run_grid(Index blocks, Index threads, void (*enter)(const void* call), const void* call);

inline unsigned lane() {
  return thread_index.x % kWarpSize;
}

/// Shuffle: offers this lane's `bytes` and receives those of lane `source`, which has to take part.
void exchange(unsigned mask, const void* own, void* other, size_t bytes, unsigned source, std::source_location where);

/// to[i] += terms[i] in one transaction, whose address has to be aligned to its size.
template <int count, typename scalar_t>
void add_atomically(scalar_t* to, const scalar_t* terms);

} // namespace cuda_emulator
