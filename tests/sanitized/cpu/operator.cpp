// Runs a request on the CPU kernels of OPERATOR that are compiled for INSTRUCTION_SET.

#include "call.h"
#include "cpu/kernel_table.h"
#include "pieces.h"
#include "registry.h"

namespace sanitized {

namespace {

using op_t = flash_internimage::OPERATOR::Operator;

void run_request(const Request& request) {
  const auto kernels = flash_internimage::INSTRUCTION_SET::kernels<op_t>();
  const auto call = read_call<op_t>(request);
  if (request.is_forward()) {
    for_each_piece<2>(request, [&](const auto& outputs) { kernels.forward(call, outputs[0], outputs[1]); });
  } else {
    for_each_piece<5>(request, [&](const auto& slice) {
      const auto small = [&](int i) { return static_cast<int32_t>(slice[i]); };
      kernels.backward(call, {slice[0], small(1), small(2), small(3), small(4)});
    });
  }
}

const bool added = add_operator(op_t::kName, &run_request);

} // namespace

} // namespace sanitized
