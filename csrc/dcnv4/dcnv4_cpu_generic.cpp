#include "dcnv4_cpu_includes.h"

#include "../cpu/isa_generic.h"

#include "dcnv4_cpu_kernel.h"
