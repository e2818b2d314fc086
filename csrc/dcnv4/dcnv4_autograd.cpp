#include "../autograd/autograd.h"
#include "dcnv4.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

namespace flash_internimage::dcnv4 {

at::Tensor call(const at::Tensor& value, const at::Tensor& offset_mask, const Settings& settings) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("flash_internimage::dcnv4", "")
                             .typed<decltype(with_arguments<call>)>();
  const auto& [kernel_size, stride, padding, dilation, groups, offset_scale, remove_center] = settings;
  return op.call(value, offset_mask, kernel_size, stride, padding, dilation, groups, offset_scale, remove_center);
}

std::tuple<at::Tensor, at::Tensor> call_backward(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    const at::Tensor& offset_mask,
    const Settings& settings,
    bool needs_grad_value,
    bool needs_grad_offset_mask) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("flash_internimage::dcnv4_backward", "")
                             .typed<decltype(with_backward_arguments<call_backward>)>();
  const auto& [kernel_size, stride, padding, dilation, groups, offset_scale, remove_center] = settings;
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
      const Settings& settings) {
    context->save_for_backward({autograd::keep_as_needed(value, offset_mask.requires_grad()), offset_mask});
    auto& saved = context->saved_data;
    saved["kernel_size"] = settings.kernel_size;
    saved["stride"] = settings.stride;
    saved["padding"] = settings.padding;
    saved["dilation"] = settings.dilation;
    saved["groups"] = settings.groups;
    saved["offset_scale"] = settings.offset_scale;
    saved["remove_center"] = settings.remove_center;
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    return call(value, offset_mask, settings);
  }

  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* context, const torch::autograd::variable_list& grad_outputs) {
    const auto tensors = context->get_saved_variables();
    const auto& saved = context->saved_data;
    const auto kernel_size = saved.at("kernel_size").toIntVector();
    const auto stride = saved.at("stride").toIntVector();
    const auto padding = saved.at("padding").toIntVector();
    const auto dilation = saved.at("dilation").toIntVector();
    const bool needs_value = context->needs_input_grad(0);
    const bool needs_points = context->needs_input_grad(1);
    const auto [grad_value, grad_offset_mask] = call_backward(
        grad_outputs[0], tensors[0], tensors[1],
        {kernel_size, stride, padding, dilation, saved.at("groups").toInt(), saved.at("offset_scale").toDouble(),
         saved.at("remove_center").toBool()},
        needs_value, needs_points);
    return {needs_value ? grad_value : at::Tensor(), needs_points ? grad_offset_mask : at::Tensor(), at::Tensor()};
  }
};

at::Tensor differentiable(const at::Tensor& value, const at::Tensor& offset_mask, const Settings& settings) {
  if (!autograd::is_differentiated(value, offset_mask)) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    return call(value, offset_mask, settings);
  }
  return Differentiable::apply(value, offset_mask, settings);
}

std::tuple<at::Tensor, at::Tensor> once_differentiable(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    const at::Tensor& offset_mask,
    const Settings& settings,
    bool needs_grad_value,
    bool needs_grad_offset_mask) {
  std::tuple<at::Tensor, at::Tensor> gradients;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    gradients = call_backward(grad_output, value, offset_mask, settings, needs_grad_value, needs_grad_offset_mask);
  }
  if (!autograd::is_differentiated(grad_output, value, offset_mask)) {
    return gradients;
  }
  const auto [grad_value, grad_offset_mask] = gradients;
  const auto once = autograd::OnceDifferentiable::apply(
      "dcnv4", at::TensorList({grad_output, value, offset_mask}), at::TensorList({grad_value, grad_offset_mask}));
  return {once[0], once[1]};
}

at::Tensor autocast(const at::Tensor& value, const at::Tensor& offset_mask, const Settings& settings) {
  const c10::impl::ExcludeDispatchKeyGuard without_autocast(autograd::kAutocastKeys);
  const at::Tensor cast = autograd::to_autocast_dtype(value);
  return call(cast, autograd::to_points_dtype(offset_mask, cast), settings);
}

} // namespace

TORCH_LIBRARY_IMPL(flash_internimage, Autograd, library) {
  library.impl("dcnv4", &with_arguments<differentiable>);
  library.impl("dcnv4_backward", &with_backward_arguments<once_differentiable>);
}

TORCH_LIBRARY_IMPL(flash_internimage, AutocastCPU, library) {
  library.impl("dcnv4", &with_arguments<autocast>);
}

TORCH_LIBRARY_IMPL(flash_internimage, AutocastCUDA, library) {
  library.impl("dcnv4", &with_arguments<autocast>);
}

} // namespace flash_internimage::dcnv4
