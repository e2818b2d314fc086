#include "machine.h"

#include "accesses.h"
#include "fiber.h"

#include <algorithm>
#include <bit>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <execinfo.h>
#include <unistd.h>

extern "C" char __executable_start;

namespace cuda_emulator {

Index thread_index;
Index block_index;
Index block_size;
Index grid_size;
Schedule schedule;

namespace {

struct Thread {
  enum class State { Ready, Waiting, Exited };

  Fiber fiber;
  Actor actor;
  State state;
  std::source_location where; // of the shuffle in which it waits
  unsigned exchanges; // the number of shuffles so far
};

struct Warp {
  unsigned existing; // lanes
  unsigned exited;
  // Lanes that wait for each other, and their mask.
  unsigned waiting;
  unsigned mask;
  // Data of the last two shuffles, because a lane may reach the next one before another has read the previous.
  alignas(16) unsigned char offers[2][kWarpSize][8];
};

Context host;
std::vector<std::unique_ptr<Thread>> threads;
std::vector<Warp> warps;
unsigned exited = 0;
Thread* running = nullptr;
void (*running_kernel)(const void* call) = nullptr;
const void* running_call = nullptr;

std::string describe(const Thread& thread) {
  const std::string name = "thread " + std::to_string(thread.actor.thread);
  switch (thread.state) {
    case Thread::State::Exited:
      return name + " has returned";
    case Thread::State::Waiting:
      return name + " waits in a shuffle at line " + std::to_string(thread.where.line());
    default:
      return name + " runs";
  }
}

void stop_running() {
  running->fiber.stop(host, running->state == Thread::State::Exited);
}

Warp& running_warp() {
  return warps[running->actor.warp()];
}

void enter_thread() {
  running->fiber.started();
  running_kernel(running_call);
  running->state = Thread::State::Exited;
  running_warp().exited |= 1u << lane();
  ++exited;
  stop_running();
}

void resume(Thread& thread) {
  running = &thread;
  thread_index.x = thread.actor.thread;
  actor = &thread.actor;
  actor_stack = reinterpret_cast<uintptr_t>(thread.fiber.stack());
  thread.fiber.resume(host);
  actor = nullptr;
  running = nullptr;
}

/// Runs all threads until each has returned.
void run_block(const std::vector<unsigned>& order) {
  while (exited < threads.size()) {
    bool progress = false;
    for (const unsigned number : order) {
      if (threads[number]->state == Thread::State::Ready) {
        resume(*threads[number]);
        progress = true;
      }
    }
    if (!progress) {
      // The message names two threads that wait at different places.
      const std::string one = describe(*threads[order[0]]);
      for (const auto& thread : threads) {
        if (thread->state != threads[order[0]]->state || thread->where.line() != threads[order[0]]->where.line()) {
          fault("no thread can go on: %s, %s", one.c_str(), describe(*thread).c_str());
        }
      }
      fault("no thread can go on: %s", one.c_str());
    }
  }
}

/// The order in which threads run.
std::vector<unsigned> draw_order() {
  std::vector<unsigned> order(threads.size());
  for (unsigned number = 0; number < order.size(); ++number) {
    order[number] = number;
  }
  if (schedule.order != 0) {
    std::mt19937_64 generator(schedule.order);
    std::shuffle(order.begin(), order.end(), generator);
  }
  return order;
}

/// Waits until all lanes of the mask have reached a shuffle with the same mask.
void meet_lanes(unsigned mask, std::source_location where) {
  Warp& warp = running_warp();
  const unsigned first = running->actor.warp() * kWarpSize;
  if (!(mask >> lane() & 1)) {
    fault("a shuffle at line %u with the mask %08x, which leaves out the lane that calls", where.line(), mask);
  }
  if (const unsigned missing = mask & (~warp.existing | warp.exited)) {
    fault(
        "a shuffle at line %u with the mask %08x, but lanes %08x %s", where.line(), mask, missing,
        missing & warp.exited ? "have returned" : "do not exist");
  }
  if (warp.waiting != 0 && warp.mask != mask) {
    const Thread& other = *threads[first + std::countr_zero(warp.waiting)];
    fault(
        "a shuffle at line %u with the mask %08x, but %s with the mask %08x", where.line(), mask,
        describe(other).c_str(), warp.mask);
  }
  running->state = Thread::State::Waiting;
  running->where = where;
  warp.mask = mask;
  warp.waiting |= 1u << lane();
  if (warp.waiting != mask) {
    return stop_running();
  }
  warp.waiting = 0;
  for (unsigned i = 0; i < kWarpSize; ++i) {
    if (mask >> i & 1) {
      threads[first + i]->state = Thread::State::Ready;
    }
  }
}

/// Ends this process and prints the call stack as source lines on stderr.
void become_addr2line() {
  constexpr int kDepth = 16;
  void* frames[kDepth];
  const int depth = backtrace(frames, kDepth);
  char program[4096] = {};
  char addresses[kDepth][32];
  char* arguments[kDepth + 5] = {};
  int count = 0;
  for (const char* argument : {"addr2line", "-pie", static_cast<const char*>(program)}) {
    arguments[count++] = const_cast<char*>(argument);
  }
  for (int i = 1; i < depth; ++i) {
    const auto offset = static_cast<char*>(frames[i]) - &__executable_start;
    std::snprintf(addresses[i], sizeof(addresses[i]), "%lx", static_cast<unsigned long>(offset - 1));
    arguments[count++] = addresses[i];
  }
  if (readlink("/proc/self/exe", program, sizeof(program) - 1) > 0 && dup2(STDERR_FILENO, STDOUT_FILENO) >= 0) {
    execvp(arguments[0], arguments);
  }
}

} // namespace

void fault(const char* format, ...) {
  std::fprintf(stderr, "CUDA emulator: ");
  if (running != nullptr) {
    std::fprintf(stderr, "block %u, thread %u: ", block_index.x, running->actor.thread);
  }
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "\n");
  std::fflush(stderr);
  become_addr2line();
  _exit(3);
}

void run_grid(Index blocks, Index threads_per_block, void (*enter)(const void* call), const void* call) {
  if (blocks.x == 0 || blocks.x > 0x7FFFFFFF || threads_per_block.x == 0 || threads_per_block.x > kMaxThreads) {
    fault("a launch of %u blocks of %u threads", blocks.x, threads_per_block.x);
  }
  grid_size = blocks;
  block_size = threads_per_block;
  thread_index = block_index = Index(0);
  thread_index.y = thread_index.z = block_index.y = block_index.z = 0;
  while (threads.size() < block_size.x) {
    threads.push_back(std::make_unique<Thread>());
  }
  threads.resize(block_size.x);
  running_kernel = enter;
  running_call = call;
  const std::vector<unsigned> order = draw_order();
  actor_stack_bytes = Fiber::kBytes;
  forget_accesses_of_grids();
  for (unsigned block = schedule.first_block; block < std::min(blocks.x, schedule.last_block); ++block) {
    block_index.x = block;
    exited = 0;
    warps.assign((block_size.x + kWarpSize - 1) / kWarpSize, Warp{});
    for (unsigned number = 0; number < threads.size(); ++number) {
      Thread& thread = *threads[number];
      thread.actor = {block, number};
      thread.state = Thread::State::Ready;
      thread.exchanges = 0;
      warps[thread.actor.warp()].existing |= 1u << number % kWarpSize;
      thread.fiber.start_at(&enter_thread);
    }
    run_block(order);
  }
}

void exchange(unsigned mask, const void* own, void* other, size_t bytes, unsigned source, std::source_location where) {
  auto& slots = running_warp().offers[running->exchanges++ % 2];
  if (source >= kWarpSize || !(mask >> source & 1)) {
    fault("a shuffle at line %u with the mask %08x reads lane %u, which it leaves out", where.line(), mask, source);
  }
  std::memcpy(slots[lane()], own, bytes);
  meet_lanes(mask, where);
  std::memcpy(other, slots[source], bytes);
}

template <int count, typename scalar_t>
void add_atomically(scalar_t* to, const scalar_t* terms) {
  const size_t bytes = count * sizeof(scalar_t);
  if (reinterpret_cast<uintptr_t>(to) % bytes != 0) {
    fault("atomicAdd of %zu bytes at an address that is no multiple of it", bytes);
  }
  check_access(to, bytes, Access::Atomic);
  for (int i = 0; i < count; ++i) {
    to[i] += terms[i];
  }
}

template void add_atomically<1>(float*, const float*);
template void add_atomically<4>(float*, const float*);
template void add_atomically<1>(double*, const double*);

} // namespace cuda_emulator
