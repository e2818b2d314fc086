#include "ms_deform_attn_cpu_includes.h"

#include "../cpu/isa_generic.h"

#include "ms_deform_attn_cpu_kernel.h"
