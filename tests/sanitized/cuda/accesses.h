// Data race detection: the reads and writes of each thread. Nothing orders those of two threads: kernels have no barriers.

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

/// The running thread.
struct Actor {
  uint32_t block;
  uint32_t thread;

  bool operator==(const Actor&) const = default;

  uint32_t warp() const {
    return thread / 32;
  }
};

enum class Access { Read, Write, Atomic };

/// To be called at the start of a grid.
void forget_accesses_of_grids();

/// The running thread, or null in host code. Accesses to its own stack are not checked.
extern const Actor* actor;
extern uintptr_t actor_stack;
extern size_t actor_stack_bytes;

/// Called before each access: by the instrumentation of -fsanitize=thread, and by atomics.
void check_access(const void* address, size_t bytes, Access access);

} // namespace cuda_emulator
