// The list of operators. extension.cpp registers them, and cpu/operators.h compiles their CPU kernels.

#pragma once

#include "dcnv4/dcnv4.h"
#include "ms_deform_attn/ms_deform_attn.h"

namespace flash_internimage {

/// Calls `body(op)` with each operator's `Operator`.
template <typename body_t>
void for_each_operator(const body_t& body) {
  body(dcnv4::Operator{});
  body(ms_deform_attn::Operator{});
}

} // namespace flash_internimage
