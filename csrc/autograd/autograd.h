// What the operators share of PyTorch's autograd and autocast.

#pragma once

#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <string>

namespace flash_internimage::autograd {

constexpr c10::DispatchKeySet kAutocastKeys({c10::DispatchKey::AutocastCPU, c10::DispatchKey::AutocastCUDA});

inline bool is_low_precision(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kHalf || tensor.scalar_type() == at::kBFloat16;
}

/// Values in the dtype of the autocast region; float64 is left alone, as PyTorch does.
inline at::Tensor to_autocast_dtype(const at::Tensor& value) {
  return value.scalar_type() == at::kDouble ? value : value.to(at::autocast::get_autocast_dtype(value.device().type()));
}

/// Sampling points keep the precision that they come in, unless it is low and not that of the values.
inline at::Tensor to_points_dtype(const at::Tensor& points, const at::Tensor& value) {
  return is_low_precision(points) && points.scalar_type() != value.scalar_type() ? points.to(at::kFloat) : points;
}

/// What a backward needs of the values. Sampling is linear in them, so the gradient of the values alone needs no more than
/// their shape, dtype and device.
inline at::Tensor keep_as_needed(const at::Tensor& value, bool points_need_gradients) {
  return points_need_gradients || !value.requires_grad()
      ? value
      : at::empty({}, value.options()).expand_symint(value.sym_sizes());
}

/// Whether anything of a call is differentiated: what costs more than a small kernel is spared where nothing is.
template <typename... tensors_t>
bool is_differentiated(const tensors_t&... tensors) {
  return torch::autograd::compute_requires_grad(tensors...) || (torch::autograd::isFwGradDefined(tensors) || ...);
}

/// Gradients whose own gradient is an error that names the operator.
class OnceDifferentiable : public torch::autograd::Function<OnceDifferentiable> {
 public:
  /// `inputs` are what the gradients were computed from.
  static torch::autograd::variable_list forward(
      torch::autograd::AutogradContext* context,
      const std::string& operator_name,
      at::TensorList inputs,
      at::TensorList gradients) {
    context->saved_data["operator_name"] = operator_name;
    return gradients.vec();
  }

  static torch::autograd::variable_list backward(
      torch::autograd::AutogradContext* context, const torch::autograd::variable_list&) {
    TORCH_CHECK(
        false, context->saved_data.at("operator_name").toStringRef(),
        ": double backward is not implemented, got a request for the gradient of its gradient; use create_graph=False, "
        "or torch.autograd.functional with first derivatives only");
  }
};

} // namespace flash_internimage::autograd
