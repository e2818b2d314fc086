#include "pieces.h"

#include "dcnv4/dcnv4_cpu_kernels.h"
#include "geometry.h"
#include "operators.h"

namespace sanitized {

namespace {

using namespace flash_internimage::dcnv4;

void run_request(const Request& request) {
  const Kernels& kernels = INSTRUCTION_SET::kernels;
  const Geometry geometry = dcnv4_geometry(request);
  const c10::ScalarType value_dtype = request.dtype("value_dtype");
  const c10::ScalarType points_dtype = request.dtype("points_dtype");
  if (request.is_forward()) {
    const ForwardCall call = {geometry,
                              value_dtype,
                              points_dtype,
                              request.buffer("value"),
                              request.buffer("offset_mask"),
                              request.buffer("output")};
    for_each_piece<2>(request, [&](const auto& cells) { kernels.forward(call, cells[0], cells[1]); });
  } else {
    const BackwardCall call = {
        geometry,
        value_dtype,
        points_dtype,
        request.buffer("grad_output"),
        request.buffer("value"),
        request.buffer("offset_mask"),
        request.buffer("grad_value"),
        request.buffer("grad_offset_mask")};
    for_each_piece<7>(request, [&](const auto& piece) {
      const auto small = [&](int i) { return static_cast<int32_t>(piece[i]); };
      kernels.backward(call, {piece[0], small(1), small(2), small(3), small(4), small(5), small(6)});
    });
  }
}

const bool added = add_operator("dcnv4", &run_request);

} // namespace

} // namespace sanitized
