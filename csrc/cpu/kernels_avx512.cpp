#include "kernels_includes.h"

#include "isa_avx512.h"

#include "operators.h"

#ifdef FLASH_INTERNIMAGE_POP_TARGET
#pragma clang attribute pop
#endif
