#include "dcnv4.h"
#include "dcnv4_cpu_kernels.h"

#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>

namespace flash_internimage::dcnv4 {

namespace {

// Samples of one channel below which another thread costs more than it saves; what PyTorch takes for cheap operations.
constexpr int64_t kWorthAThread = 32768;

const Kernels& chosen_kernels() {
  return cpu::choose(generic::kernels, avx2::kernels, avx512::kernels);
}

at::Tensor forward_cpu(const at::Tensor& value, const at::Tensor& offset_mask, const Settings& settings) {
  const Geometry geometry = check(value, offset_mask, settings);
  at::Tensor output = at::empty(
      {geometry.batch, geometry.height.output_size, geometry.width.output_size, geometry.channels()}, value.options());
  if (output.numel() == 0) {
    return output;
  }
  const at::Tensor value_cells = value.contiguous();
  const at::Tensor points = offset_mask.contiguous();
  const ForwardCall call = {geometry,
                            value.scalar_type(),
                            offset_mask.scalar_type(),
                            value_cells.const_data_ptr(),
                            points.const_data_ptr(),
                            output.data_ptr()};
  const int64_t work = std::max<int64_t>(1, geometry.channels() * geometry.points);
  const int64_t grain = std::max<int64_t>(1, kWorthAThread / work);
  const Kernels& kernels = chosen_kernels();
  at::parallel_for(0, geometry.batch * geometry.output_cells(), grain, [&](int64_t first, int64_t last) {
    kernels.forward(call, first, last);
  });
  return output;
}

/// Runs the backward with each image's groups spread over threads, and rows as well where those are too few. Additions
/// to an element happen in the order of output cells whoever owns it, so the result does not depend on the split.
void backward_slices(const Kernels& kernels, const BackwardCall& call) {
  const Geometry& geometry = call.geometry;
  const int64_t slices = geometry.batch * geometry.groups;
  const int64_t threads = at::get_num_threads();
  const int64_t bands =
      std::min<int64_t>(slices >= threads ? 1 : (threads + slices - 1) / slices, geometry.height.size);
  const auto band_start = [&](int64_t rows, int64_t band) { return static_cast<int32_t>(rows * band / bands); };
  at::parallel_for(0, slices * bands, 1, [&](int64_t first, int64_t last) {
    while (first < last) {
      const int64_t band = first % bands;
      const int64_t group = first / bands % geometry.groups;
      // Groups of one image are walked together, because they share cache lines.
      const int64_t together = bands > 1 ? 1 : std::min(last - first, geometry.groups - group);
      kernels.backward(
          call,
          {first / bands / geometry.groups, static_cast<int32_t>(group), static_cast<int32_t>(group + together),
           band_start(geometry.height.size, band), band_start(geometry.height.size, band + 1),
           band_start(geometry.height.output_size, band), band_start(geometry.height.output_size, band + 1)});
      first += together;
    }
  });
}

std::tuple<at::Tensor, at::Tensor> backward_cpu(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    const at::Tensor& offset_mask,
    const Settings& settings,
    bool needs_grad_value,
    bool needs_grad_offset_mask) {
  const Geometry geometry = check(value, offset_mask, settings);
  check_grad_output(grad_output, value, geometry);

  at::Tensor grad_sum, grad_offset_mask;
  if (needs_grad_value) {
    grad_sum = at::zeros(value.sizes(), value.options().dtype(at::toOpMathType(value.scalar_type())));
  } else {
    grad_sum = at::empty({0}, value.options());
  }
  if (needs_grad_offset_mask) {
    grad_offset_mask = at::empty(offset_mask.sizes(), offset_mask.options());
    const int64_t used = int64_t(3) * geometry.points * geometry.groups;
    grad_offset_mask.narrow(-1, used, geometry.offset_mask_channels - used).zero_();
  } else {
    grad_offset_mask = at::empty({0}, offset_mask.options());
  }
  if (!needs_grad_value && !needs_grad_offset_mask) {
    return {grad_sum, grad_offset_mask};
  }
  if (grad_output.numel() > 0 && value.numel() > 0) {
    const at::Tensor grad_cells = grad_output.contiguous();
    // Without gradients of points the values are not read, and a caller may pass their shape alone.
    const at::Tensor value_cells = needs_grad_offset_mask ? value.contiguous() : value;
    const at::Tensor points = offset_mask.contiguous();
    backward_slices(
        chosen_kernels(),
        {geometry, value.scalar_type(), offset_mask.scalar_type(), grad_cells.const_data_ptr(),
         value_cells.const_data_ptr(), points.const_data_ptr(), needs_grad_value ? grad_sum.data_ptr() : nullptr,
         needs_grad_offset_mask ? grad_offset_mask.data_ptr() : nullptr});
  } else {
    grad_offset_mask.zero_();
  }
  return {grad_sum.to(value.scalar_type()), grad_offset_mask};
}

} // namespace

TORCH_LIBRARY_IMPL(flash_internimage, CPU, library) {
  library.impl("dcnv4", &with_arguments<forward_cpu>);
  library.impl("dcnv4_backward", &with_backward_arguments<backward_cpu>);
}

} // namespace flash_internimage::dcnv4
