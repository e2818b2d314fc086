// The choice among the compiled instruction sets.

#pragma once

namespace flash_internimage::cpu {

enum class Capability { Generic, Avx2, Avx512 };

/// The widest instruction set that this build contains, the CPU supports and PyTorch uses (so ATEN_CPU_CAPABILITY
/// lowers it). Detected once.
Capability capability();

const char* name(Capability capability);

} // namespace flash_internimage::cpu
