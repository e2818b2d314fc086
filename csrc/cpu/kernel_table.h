// The functions of an operator that are compiled once for each instruction set, and the choice among their tables.

#pragma once

#include "capability.h"

#include <cstdint>

namespace flash_internimage::cpu {

template <typename forward_call_t, typename backward_call_t, typename slice_t>
struct KernelTable {
  /// Writes outputs [first, last), counted through the batch.
  void (*forward)(const forward_call_t& call, int64_t first, int64_t last);
  /// Writes the gradients that one slice owns.
  void (*backward)(const backward_call_t& call, const slice_t& slice);
};

/// The table for the instruction set to run.
template <typename table_t>
const table_t& choose(const table_t& generic, const table_t& avx2, const table_t& avx512) {
  switch (capability()) {
    case Capability::Avx512:
      return avx512;
    case Capability::Avx2:
      return avx2;
    default:
      return generic;
  }
}

} // namespace flash_internimage::cpu
