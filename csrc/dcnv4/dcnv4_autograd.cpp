#include "../autograd/autograd.h"
#include "dcnv4.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

namespace flash_internimage::dcnv4 {

at::Tensor call(
    const at::Tensor& value,
    const at::Tensor& offset_mask,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    int64_t groups,
    double offset_scale,
    bool remove_center) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("flash_internimage::dcnv4", "").typed<decltype(call)>();
  return op.call(value, offset_mask, kernel_size, stride, padding, dilation, groups, offset_scale, remove_center);
}

std::tuple<at::Tensor, at::Tensor> call_backward(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    const at::Tensor& offset_mask,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    int64_t groups,
    double offset_scale,
    bool remove_center,
    bool needs_grad_value,
    bool needs_grad_offset_mask) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("flash_internimage::dcnv4_backward", "")
                             .typed<decltype(call_backward)>();
  return op.call(
      grad_output, value, offset_mask, kernel_size, stride, padding, dilation, groups, offset_scale, remove_center,
      needs_grad_value, needs_grad_offset_mask);
}

namespace {

class Differentiable : public torch::autograd::Function<Differentiable> {
 public:
  static constexpr bool is_traceable = true;

  static at::Tensor forward(
      torch::autograd::AutogradContext* context,
      const at::Tensor& value,
      const at::Tensor& offset_mask,
      at::IntArrayRef kernel_size,
      at::IntArrayRef stride,
      at::IntArrayRef padding,
      at::IntArrayRef dilation,
      int64_t groups,
      double offset_scale,
      bool remove_center) {
    context->save_for_backward({autograd::keep_as_needed(value, offset_mask.requires_grad()), offset_mask});
    auto& saved = context->saved_data;
    saved["kernel_size"] = kernel_size;
    saved["stride"] = stride;
    saved["padding"] = padding;
    saved["dilation"] = dilation;
    saved["groups"] = groups;
    saved["offset_scale"] = offset_scale;
    saved["remove_center"] = remove_center;
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    return call(value, offset_mask, kernel_size, stride, padding, dilation, groups, offset_scale, remove_center);
  }

  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* context, const torch::autograd::variable_list& grad_outputs) {
    const auto tensors = context->get_saved_variables();
    const auto& saved = context->saved_data;
    const bool needs_value = context->needs_input_grad(0);
    const bool needs_points = context->needs_input_grad(1);
    const auto [grad_value, grad_offset_mask] = call_backward(
        grad_outputs[0], tensors[0], tensors[1], saved.at("kernel_size").toIntVector(),
        saved.at("stride").toIntVector(), saved.at("padding").toIntVector(), saved.at("dilation").toIntVector(),
        saved.at("groups").toInt(), saved.at("offset_scale").toDouble(), saved.at("remove_center").toBool(),
        needs_value, needs_points);
    torch::autograd::variable_list gradients(9); // one for each argument of forward
    gradients[0] = needs_value ? grad_value : at::Tensor();
    gradients[1] = needs_points ? grad_offset_mask : at::Tensor();
    return gradients;
  }
};

at::Tensor differentiable(
    const at::Tensor& value,
    const at::Tensor& offset_mask,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    int64_t groups,
    double offset_scale,
    bool remove_center) {
  if (!autograd::is_differentiated(value, offset_mask)) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    return call(value, offset_mask, kernel_size, stride, padding, dilation, groups, offset_scale, remove_center);
  }
  return Differentiable::apply(
      value, offset_mask, kernel_size, stride, padding, dilation, groups, offset_scale, remove_center);
}

std::tuple<at::Tensor, at::Tensor> once_differentiable(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    const at::Tensor& offset_mask,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    int64_t groups,
    double offset_scale,
    bool remove_center,
    bool needs_grad_value,
    bool needs_grad_offset_mask) {
  std::tuple<at::Tensor, at::Tensor> gradients;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    gradients = call_backward(
        grad_output, value, offset_mask, kernel_size, stride, padding, dilation, groups, offset_scale, remove_center,
        needs_grad_value, needs_grad_offset_mask);
  }
  if (!autograd::is_differentiated(grad_output, value, offset_mask)) {
    return gradients;
  }
  const auto [grad_value, grad_offset_mask] = gradients;
  const auto once = autograd::OnceDifferentiable::apply(
      "dcnv4", at::TensorList({grad_output, value, offset_mask}), at::TensorList({grad_value, grad_offset_mask}));
  return {once[0], once[1]};
}

at::Tensor autocast(
    const at::Tensor& value,
    const at::Tensor& offset_mask,
    at::IntArrayRef kernel_size,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    int64_t groups,
    double offset_scale,
    bool remove_center) {
  const c10::impl::ExcludeDispatchKeyGuard without_autocast(autograd::kAutocastKeys);
  const at::Tensor cast = autograd::to_autocast_dtype(value);
  return call(
      cast, autograd::to_points_dtype(offset_mask, cast), kernel_size, stride, padding, dilation, groups, offset_scale,
      remove_center);
}

} // namespace

TORCH_LIBRARY_IMPL(flash_internimage, Autograd, library) {
  library.impl("dcnv4", &differentiable);
  library.impl("dcnv4_backward", &once_differentiable);
}

TORCH_LIBRARY_IMPL(flash_internimage, AutocastCPU, library) {
  library.impl("dcnv4", &autocast);
}

TORCH_LIBRARY_IMPL(flash_internimage, AutocastCUDA, library) {
  library.impl("dcnv4", &autocast);
}

} // namespace flash_internimage::dcnv4
