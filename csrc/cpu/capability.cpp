#include "capability.h"

#include <ATen/Version.h>

namespace flash_internimage::cpu {

namespace {

Capability detect() {
#if defined(__x86_64__) && defined(__GNUC__)
  // PyTorch's own choice first, because a user who restrains PyTorch means us too. It does not ask for every extension
  // that our kernels are compiled for, hence the second question.
  const auto used_by_torch = at::get_cpu_capability();
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
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
