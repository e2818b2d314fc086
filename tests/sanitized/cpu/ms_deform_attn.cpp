#include "pieces.h"

#include "geometry.h"
#include "ms_deform_attn/ms_deform_attn_cpu_kernels.h"
#include "operators.h"

namespace sanitized {

namespace {

using namespace flash_internimage::ms_deform_attn;

void run_request(const Request& request) {
  const Kernels& kernels = INSTRUCTION_SET::kernels;
  const Geometry geometry = ms_deform_attn_geometry(request);
  const c10::ScalarType value_dtype = request.dtype("value_dtype");
  const c10::ScalarType points_dtype = request.dtype("points_dtype");
  if (request.is_forward()) {
    const ForwardCall call = {
        geometry,
        value_dtype,
        points_dtype,
        request.buffer("value"),
        request.buffer("sampling_locations"),
        request.buffer("attention_weights"),
        request.buffer("output")};
    for_each_piece<2>(request, [&](const auto& queries) { kernels.forward(call, queries[0], queries[1]); });
  } else {
    const BackwardCall call = {
        geometry,
        value_dtype,
        points_dtype,
        request.buffer("grad_output"),
        request.buffer("value"),
        request.buffer("sampling_locations"),
        request.buffer("attention_weights"),
        request.buffer("grad_value"),
        request.buffer("grad_sampling_locations"),
        request.buffer("grad_attention_weights")};
    for_each_piece<5>(request, [&](const auto& piece) {
      const auto small = [&](int i) { return static_cast<int32_t>(piece[i]); };
      kernels.backward(call, {piece[0], small(1), small(2), small(3), small(4)});
    });
  }
}

const bool added = add_operator("ms_deform_attn", &run_request);

} // namespace

} // namespace sanitized
