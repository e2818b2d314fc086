// What a request can call. Each operator adds itself, so a program may contain only some of them.

#pragma once

#include "request.h"

namespace sanitized {

/// Always returns true, to be called where a global is initialized.
bool add_operator(const char* name, void (*run)(const Request& request));

} // namespace sanitized
