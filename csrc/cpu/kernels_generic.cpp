#include "kernels_includes.h"

#include "isa_generic.h"

#include "operators.h"
