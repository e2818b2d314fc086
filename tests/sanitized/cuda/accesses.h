// What each thread reads and writes, and which of it two threads may not do without a barrier between them.

#pragma once

#include <cstddef>
#include <cstdint>

namespace cuda_emulator {

/// Global memory that kernels may read, or read and write, while this lives.
class Region {
 public:
  Region(const char* name, const void* begin, size_t bytes, bool writable);
  ~Region();
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  const char* const name;
  const uintptr_t begin;
  const size_t bytes;
  const bool writable;
};

/// The thread that runs, and the barriers that it has passed.
struct Actor {
  uint32_t block;
  uint32_t thread;
  uint32_t block_epoch; // barriers of the block
  uint32_t warp_epoch; // barriers of the warp alone

  uint32_t warp() const {
    return thread / 32;
  }
};

enum class Access { Read, Write, Atomic };

/// To be called as a grid, and then each of its blocks, begins. The addresses are those of shared memory.
void forget_accesses_of_grids();
void forget_accesses_of_blocks(const void* shared, size_t shared_bytes);

/// The thread that is running, null between them; its own stack is nobody else's business.
extern const Actor* actor;
extern uintptr_t actor_stack;
extern size_t actor_stack_bytes;

/// Called before each access: by the instrumentation of kernels that are compiled with -fsanitize=thread, and by atomics.
void check_access(const void* address, size_t bytes, Access access);

} // namespace cuda_emulator
