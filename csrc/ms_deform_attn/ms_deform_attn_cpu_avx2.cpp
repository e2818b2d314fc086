#include "ms_deform_attn_cpu_includes.h"

#include "../cpu/isa_avx2.h"

#include "ms_deform_attn_cpu_kernel.h"

#ifdef FLASH_INTERNIMAGE_POP_TARGET
#pragma clang attribute pop
#endif
