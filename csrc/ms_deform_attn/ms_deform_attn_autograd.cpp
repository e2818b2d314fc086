#include "../autograd/autograd.h"
#include "ms_deform_attn.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

namespace flash_internimage::ms_deform_attn {

at::Tensor call(
    const at::Tensor& value,
    c10::SymIntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("flash_internimage::ms_deform_attn", "").typed<decltype(call)>();
  return op.call(value, spatial_shapes, sampling_locations, attention_weights);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> call_backward(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    c10::SymIntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights,
    bool needs_grad_value,
    bool needs_grad_sampling_locations,
    bool needs_grad_attention_weights) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("flash_internimage::ms_deform_attn_backward", "")
                             .typed<decltype(call_backward)>();
  return op.call(
      grad_output, value, spatial_shapes, sampling_locations, attention_weights, needs_grad_value,
      needs_grad_sampling_locations, needs_grad_attention_weights);
}

namespace {

class Differentiable : public torch::autograd::Function<Differentiable> {
 public:
  static constexpr bool is_traceable = true;

  static at::Tensor forward(
      torch::autograd::AutogradContext* context,
      const at::Tensor& value,
      c10::SymIntArrayRef spatial_shapes,
      const at::Tensor& sampling_locations,
      const at::Tensor& attention_weights) {
    const bool moves_points = sampling_locations.requires_grad() || attention_weights.requires_grad();
    context->save_for_backward({autograd::keep_as_needed(value, moves_points), sampling_locations, attention_weights});
    context->saved_data["spatial_shapes"] = spatial_shapes;
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    return call(value, spatial_shapes, sampling_locations, attention_weights);
  }

  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* context, const torch::autograd::variable_list& grad_outputs) {
    const auto tensors = context->get_saved_variables();
    const bool needs_value = context->needs_input_grad(0);
    const bool needs_locations = context->needs_input_grad(1);
    const bool needs_weights = context->needs_input_grad(2);
    const auto [grad_value, grad_locations, grad_weights] = call_backward(
        grad_outputs[0], tensors[0], context->saved_data.at("spatial_shapes").toSymIntVector(), tensors[1], tensors[2],
        needs_value, needs_locations, needs_weights);
    return {
        needs_value ? grad_value : at::Tensor(), at::Tensor(), needs_locations ? grad_locations : at::Tensor(),
        needs_weights ? grad_weights : at::Tensor()};
  }
};

at::Tensor differentiable(
    const at::Tensor& value,
    c10::SymIntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  if (!autograd::is_differentiated(value, sampling_locations, attention_weights)) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    return call(value, spatial_shapes, sampling_locations, attention_weights);
  }
  return Differentiable::apply(value, spatial_shapes, sampling_locations, attention_weights);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> once_differentiable(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    c10::SymIntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights,
    bool needs_grad_value,
    bool needs_grad_sampling_locations,
    bool needs_grad_attention_weights) {
  std::tuple<at::Tensor, at::Tensor, at::Tensor> gradients;
  {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    gradients = call_backward(
        grad_output, value, spatial_shapes, sampling_locations, attention_weights, needs_grad_value,
        needs_grad_sampling_locations, needs_grad_attention_weights);
  }
  if (!autograd::is_differentiated(grad_output, value, sampling_locations, attention_weights)) {
    return gradients;
  }
  const auto [grad_value, grad_locations, grad_weights] = gradients;
  const auto once = autograd::OnceDifferentiable::apply(
      "ms_deform_attn", at::TensorList({grad_output, value, sampling_locations, attention_weights}),
      at::TensorList({grad_value, grad_locations, grad_weights}));
  return {once[0], once[1], once[2]};
}

at::Tensor autocast(
    const at::Tensor& value,
    c10::SymIntArrayRef spatial_shapes,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  const c10::impl::ExcludeDispatchKeyGuard without_autocast(autograd::kAutocastKeys);
  const at::Tensor cast = autograd::to_autocast_dtype(value);
  return call(
      cast, spatial_shapes, autograd::to_points_dtype(sampling_locations, cast),
      autograd::to_points_dtype(attention_weights, cast));
}

} // namespace

TORCH_LIBRARY_IMPL(flash_internimage, Autograd, library) {
  library.impl("ms_deform_attn", &differentiable);
  library.impl("ms_deform_attn_backward", &once_differentiable);
}

TORCH_LIBRARY_IMPL(flash_internimage, AutocastCPU, library) {
  library.impl("ms_deform_attn", &autocast);
}

TORCH_LIBRARY_IMPL(flash_internimage, AutocastCUDA, library) {
  library.impl("ms_deform_attn", &autocast);
}

} // namespace flash_internimage::ms_deform_attn
