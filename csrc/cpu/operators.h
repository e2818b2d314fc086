// The CPU kernels of all operators for one instruction set. Include after cpu/isa_*.h.

#include "kernels.h"

#include "../dcnv4/dcnv4_points_cpu.h"
#include "../ms_deform_attn/ms_deform_attn_points_cpu.h"

namespace flash_internimage::FLASH_INTERNIMAGE_ISA {

template cpu::KernelTable<dcnv4::Operator> kernels();
template cpu::KernelTable<ms_deform_attn::Operator> kernels();

} // namespace flash_internimage::FLASH_INTERNIMAGE_ISA
