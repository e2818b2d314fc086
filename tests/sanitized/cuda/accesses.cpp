#include "accesses.h"

#include "machine.h"

#include <algorithm>
#include <array>
#include <memory>
#include <unordered_map>
#include <vector>

extern "C" char __executable_start;
extern "C" char _end;

namespace cuda_emulator {

const Actor* actor = nullptr;
uintptr_t actor_stack = 0;
size_t actor_stack_bytes = 0;

namespace {

constexpr uintptr_t kCellBytes = 2; // the size of the smallest dtype; a cell here is the unit of memory that is tracked
constexpr uintptr_t kPageCells = 1024;

/// The threads that have accessed a cell in one way, reduced to what detects a race with a later access: the first
/// thread, and whether there were several.
struct Accessors {
  bool any = false;
  bool several = false;
  Actor first;

  void add(const Actor& by) {
    several = any && (several || first != by);
    first = any ? first : by;
    any = true;
  }

  /// Whether one of them is another thread.
  bool race_with(const Actor& by) const {
    return any && (several || first != by);
  }
};

struct Cell {
  Accessors readers;
  Accessors writers;
  Accessors adders;
};

using Page = std::array<Cell, kPageCells>;

std::vector<const Region*> regions;
std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages; // of global memory

const char* name(Access access) {
  return access == Access::Read ? "reads" : access == Access::Write ? "writes" : "adds to";
}

Cell& global_cell(uintptr_t address) {
  static uintptr_t last_number = 0;
  static Page* last_page = nullptr;
  const uintptr_t cell = address / kCellBytes;
  const uintptr_t number = cell / kPageCells;
  if (pages.empty() || number != last_number || last_page == nullptr) {
    auto& page = pages[number];
    if (page == nullptr) {
      page = std::make_unique<Page>();
    }
    last_number = number;
    last_page = page.get();
  }
  return (*last_page)[cell % kPageCells];
}

void check_cell(Cell& cell, const char* where, size_t offset, Access access) {
  const auto refuse = [&](const Accessors& others, Access before) {
    if (others.race_with(*actor)) {
      fault(
          "%s byte %zu of %s, as thread %u of block %u %s it", name(access), offset, where, others.first.thread,
          others.first.block, name(before));
    }
  };
  refuse(cell.writers, Access::Write);
  if (access != Access::Read) {
    refuse(cell.readers, Access::Read);
  }
  if (access != Access::Atomic) {
    refuse(cell.adders, Access::Atomic);
  }
  (access == Access::Read ? cell.readers : access == Access::Write ? cell.writers : cell.adders).add(*actor);
}

} // namespace

Region::Region(const char* name, const void* begin, size_t bytes, bool writable)
    : name(name), begin(reinterpret_cast<uintptr_t>(begin)), bytes(bytes), writable(writable) {
  regions.push_back(this);
}

Region::~Region() {
  regions.erase(std::find(regions.begin(), regions.end(), this));
}

void forget_accesses_of_grids() {
  pages.clear();
}

void check_access(const void* pointer, size_t bytes, Access access) {
  if (actor == nullptr) {
    return; // host code
  }
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (address - actor_stack < actor_stack_bytes) {
    return;
  }
  for (const Region* region : regions) {
    const size_t offset = address - region->begin;
    if (offset < region->bytes) {
      if (offset + bytes > region->bytes || (access != Access::Read && !region->writable)) {
        fault(
            "%s bytes %zu to %zu of %s, which has %zu%s", name(access), offset, offset + bytes - 1, region->name,
            region->bytes, region->writable ? "" : " and is only read");
      }
      if (region->writable) {
        for (uintptr_t at = address / kCellBytes; at * kCellBytes < address + bytes; ++at) {
          check_cell(global_cell(at * kCellBytes), region->name, offset, access);
        }
      }
      return;
    }
  }
  const auto image = reinterpret_cast<uintptr_t>(&__executable_start);
  if (access == Access::Read && address - image < reinterpret_cast<uintptr_t>(&_end) - image) {
    return; // constants, and threadIdx and the like
  }
  fault("%s %zu bytes at %p, which is no memory of the kernel's", name(access), bytes, pointer);
}

} // namespace cuda_emulator

// The functions that -fsanitize=thread calls. ThreadSanitizer's runtime, which detects races between host threads, is
// not linked.
#define CUDA_EMULATOR_HOOK(bytes)                                              \
  extern "C" void __tsan_read##bytes(void* address) {                          \
    cuda_emulator::check_access(address, bytes, cuda_emulator::Access::Read);  \
  }                                                                            \
  extern "C" void __tsan_write##bytes(void* address) {                         \
    cuda_emulator::check_access(address, bytes, cuda_emulator::Access::Write); \
  }                                                                            \
  extern "C" void __tsan_unaligned_read##bytes(void* address) {                \
    cuda_emulator::check_access(address, bytes, cuda_emulator::Access::Read);  \
  }                                                                            \
  extern "C" void __tsan_unaligned_write##bytes(void* address) {               \
    cuda_emulator::check_access(address, bytes, cuda_emulator::Access::Write); \
  }
CUDA_EMULATOR_HOOK(1)
CUDA_EMULATOR_HOOK(2)
CUDA_EMULATOR_HOOK(4)
CUDA_EMULATOR_HOOK(8)
CUDA_EMULATOR_HOOK(16)

extern "C" void __tsan_read_range(void* address, unsigned long bytes) {
  cuda_emulator::check_access(address, bytes, cuda_emulator::Access::Read);
}
extern "C" void __tsan_write_range(void* address, unsigned long bytes) {
  cuda_emulator::check_access(address, bytes, cuda_emulator::Access::Write);
}
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_vptr_update(void**, void*) {}
