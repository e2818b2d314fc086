#include "capability.h"

#include <ATen/Version.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#endif

namespace flash_internimage::cpu {

namespace {

#if defined(__x86_64__) && defined(__GNUC__)
/// Whether the CPU converts float16. Clang 14 does not know this feature in __builtin_cpu_supports.
bool has_f16c() {
  unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

Capability detect() {
#if defined(__x86_64__) && defined(__GNUC__)
  // PyTorch's choice is an upper limit, so that ATEN_CPU_CAPABILITY applies here too. PyTorch does not require all
  // extensions that these kernels are compiled for, so the CPU is asked as well.
  const auto used_by_torch = at::get_cpu_capability();
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  if (used_by_torch.rfind("AVX512", 0) == 0 && avx512) {
    return Capability::Avx512;
  }
  if (used_by_torch.rfind("AVX", 0) == 0 && avx2) {
    return Capability::Avx2;
  }
#endif
  return Capability::Generic;
}

} // namespace

Capability capability() {
  static const Capability found = detect();
  return found;
}

const char* name(Capability capability) {
  switch (capability) {
    case Capability::Avx512:
      return "AVX512";
    case Capability::Avx2:
      return "AVX2";
    default:
      return "generic";
  }
}

} // namespace flash_internimage::cpu
