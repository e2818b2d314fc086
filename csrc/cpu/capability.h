// Which of the compiled instruction sets to run.

#pragma once

namespace flash_internimage::cpu {

enum class Capability { Generic, Avx2, Avx512 };

/// The widest set that this build holds, this CPU has and PyTorch uses, so ATEN_CPU_CAPABILITY lowers it. Found once.
Capability capability();

const char* name(Capability capability);

/// Chooses among one table of functions for each instruction set.
template <typename table_t>
const table_t& choose(const table_t& generic, const table_t& avx2, const table_t& avx512) {
  switch (capability()) {
    case Capability::Avx512:
      return avx512;
    case Capability::Avx2:
      return avx2;
    default:
      return generic;
  }
}

} // namespace flash_internimage::cpu
