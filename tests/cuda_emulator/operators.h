// What a request can call: each operator adds itself, so that a program may hold only some.

#pragma once

#include "request.h"

namespace cuda_emulator {

/// Always true, to be called where a global is initialised.
bool add_operator(const char* name, void (*run)(const Request& request));

} // namespace cuda_emulator
