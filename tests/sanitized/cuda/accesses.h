// Data race detection: the reads and writes of each thread, and the barriers that order them.

#pragma once

#include <cstddef>
#include <cstdint>

namespace cuda_emulator {

/// Global memory that kernels may read, or read and write, during the lifetime of this object.
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

/// The running thread and the number of barriers that it has passed.
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

/// To be called at the start of a grid, and of each of its blocks with the addresses of its shared memory.
void forget_accesses_of_grids();
void forget_accesses_of_blocks(const void* shared, size_t shared_bytes);

/// The running thread, or null in host code. Accesses to its own stack are not checked.
extern const Actor* actor;
extern uintptr_t actor_stack;
extern size_t actor_stack_bytes;

/// Called before each access: by the instrumentation of -fsanitize=thread, and by atomics.
void check_access(const void* address, size_t bytes, Access access);

} // namespace cuda_emulator
