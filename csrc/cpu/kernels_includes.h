// Every header that the kernels use and that must be compiled for the default target: see cpu/isa_avx2.h.

#include "../core/bilinear.h"
#include "../core/call.h"
#include "../core/dtypes.h"
#include "../operators.h"
#include "kernel_table.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
