// What a request can call: each operator adds itself, so that a program may hold only some.

#pragma once

#include "request.h"

namespace sanitized {

/// Always true, to be called where a global is initialized.
bool add_operator(const char* name, void (*run)(const Request& request));

} // namespace sanitized
