// Which of the compiled instruction sets to run.

#pragma once

namespace flash_internimage::cpu {

enum class Capability { Generic, Avx2, Avx512 };

/// The widest set that this build holds, this CPU has and PyTorch uses, so ATEN_CPU_CAPABILITY lowers it. Found once.
Capability capability();

const char* name(Capability capability);

} // namespace flash_internimage::cpu
