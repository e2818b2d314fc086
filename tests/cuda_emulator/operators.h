// What a request can call.

#pragma once

#include "request.h"

namespace cuda_emulator {

void run_dcnv4(const Request& request);
void run_ms_deform_attn(const Request& request);

} // namespace cuda_emulator
