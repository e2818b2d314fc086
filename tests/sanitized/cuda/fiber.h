// Fibers: one stack for each thread of a block, so that a thread can stop at a barrier and continue later.
//
// Context switches are in assembly, because swapcontext makes a system call, and a small problem takes millions of
// switches.

#pragma once

#include <cstddef>
#include <cstdint>

#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace cuda_emulator {

#if defined(__x86_64__)
using Context = void*; // the stack pointer, above which the registers lie that a callee must keep

extern "C" void cuda_emulator_switch(Context* save, Context* load);
asm(R"(
.pushsection .text
cuda_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq (%rsi), %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.popsection
)");

inline void prepare(Context& context, unsigned char* stack, size_t bytes, void (*entry)()) {
  // Six callee-saved registers, then `entry` as return address, which itself has none.
  void** const top = reinterpret_cast<void**>(stack + bytes) - 8;
  for (int i = 0; i < 8; ++i) {
    top[i] = nullptr;
  }
  top[6] = reinterpret_cast<void*>(entry);
  context = top;
}
#else
using Context = ucontext_t;

inline void cuda_emulator_switch(Context* save, Context* load) {
  swapcontext(save, load);
}

inline void prepare(Context& context, unsigned char* stack, size_t bytes, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = bytes;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
#endif

/// A stack and its saved context. The first page is a guard page, so that an overflow is a segmentation fault.
class Fiber {
 public:
  static constexpr size_t kBytes = 128 * 1024;
  static constexpr size_t kGuard = 4096;

  Fiber() {
    memory_ = static_cast<unsigned char*>(
        mmap(nullptr, kGuard + kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    mprotect(memory_, kGuard, PROT_NONE);
  }
  ~Fiber() {
    munmap(memory_, kGuard + kBytes);
  }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  unsigned char* stack() const {
    return memory_ + kGuard;
  }

  void start_at(void (*entry)()) {
    prepare(context_, stack(), kBytes, entry);
  }

  /// Called by the host: runs the fiber until `stop`.
  void resume(Context& host) {
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, stack(), kBytes);
#endif
    cuda_emulator_switch(&host, &context_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  }

  /// To be called first in the entry function.
  void started() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &host_stack_, &host_bytes_);
#endif
  }

  /// Called by the fiber: returns to the host until `resume`, or forever.
  void stop(Context& host, bool forever) {
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(forever ? nullptr : &fake_stack, host_stack_, host_bytes_);
#endif
    cuda_emulator_switch(&context_, &host);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, &host_stack_, &host_bytes_);
#endif
  }

 private:
  unsigned char* memory_;
  Context context_ = {};
#if defined(__SANITIZE_ADDRESS__)
  const void* host_stack_ = nullptr;
  size_t host_bytes_ = 0;
#endif
};

} // namespace cuda_emulator
