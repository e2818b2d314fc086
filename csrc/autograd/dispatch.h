// An operator between Python and its kernels: schemas, calls through PyTorch's dispatcher, autograd and autocast.

#pragma once

#include "arguments.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/library.h>

#include <array>
#include <string>

namespace flash_internimage::autograd {

constexpr c10::DispatchKeySet kAutocastKeys({c10::DispatchKey::AutocastCPU, c10::DispatchKey::AutocastCUDA});

inline bool is_low_precision(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kHalf || tensor.scalar_type() == at::kBFloat16;
}

/// Casts value to the dtype of the autocast region. float64 is left alone, as in PyTorch.
inline at::Tensor to_autocast_dtype(const at::Tensor& value) {
  return value.scalar_type() == at::kDouble ? value : value.to(at::autocast::get_autocast_dtype(value.device().type()));
}

/// Point tensors keep their precision, unless it is low and not that of value; settings are not touched.
inline at::Tensor to_points_dtype(const at::Tensor& points, const at::Tensor& value) {
  return is_low_precision(points) && points.scalar_type() != value.scalar_type() ? points.to(at::kFloat) : points;
}
template <typename setting_t>
setting_t to_points_dtype(const setting_t& setting, const at::Tensor&) {
  return setting;
}

/// What a backward needs of value. Sampling is linear in it, so its own gradient needs only its shape, dtype and
/// device.
inline at::Tensor keep_as_needed(const at::Tensor& value, bool points_need_gradients) {
  return points_need_gradients || !value.requires_grad()
      ? value
      : at::empty({}, value.options()).expand_symint(value.sym_sizes());
}

/// Whether anything of a call is differentiated. If not, autograd's bookkeeping, which can cost more than a small
/// kernel, is skipped.
template <typename... tensors_t>
bool is_differentiated(const tensors_t&... tensors) {
  return torch::autograd::compute_requires_grad(tensors...) || (torch::autograd::isFwGradDefined(tensors) || ...);
}

/// Gradients that cannot be differentiated: the error names the operator.
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

/// What a forward has saved: its tensors in their order, and its settings under their positions after value.
struct Saved {
  torch::autograd::variable_list tensors;
  const decltype(torch::autograd::AutogradContext::saved_data)& settings;
  size_t position = 0;
  size_t next_tensor = 1;

  /// The next argument after value.
  template <typename argument_t>
  owned_t<argument_t> next() {
    const size_t at = position++;
    if constexpr (kIsTensor<argument_t>) {
      return tensors[next_tensor++];
    } else {
      return from_ivalue<owned_t<argument_t>>(settings.at(std::to_string(at)));
    }
  }
};

/// Everything between Python and kernels for the operator `op_t`. `rest_t` are its arguments after value, and `tensor`
/// are the numbers of its tensors, 0 for value.
template <
    typename op_t,
    typename check_t = decltype(op_t::check),
    typename tensors_t = std::make_index_sequence<kTensors<op_t>>>
class Dispatch;

template <typename op_t, typename... rest_t, size_t... tensor>
class Dispatch<op_t, typename op_t::Geometry(const at::Tensor&, rest_t...), std::index_sequence<tensor...>> {
 public:
  using gradients_t = std::tuple<tensor_t<tensor>...>;

  /// The operator, called through the dispatcher: for any device, with autograd and autocast.
  static at::Tensor call(const at::Tensor& value, symbolic_t<op_t, rest_t>... rest) {
    static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name().c_str(), "").typed<decltype(call)>();
    return op.call(value, rest...);
  }

  /// Its gradients, one for each tensor that it takes; those that are not needed are empty.
  static gradients_t call_backward(
      const at::Tensor& grad_output,
      const at::Tensor& value,
      symbolic_t<op_t, rest_t>... rest,
      flag_t<tensor>... needs_grad) {
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow(backward_name(name()).c_str(), "")
                               .typed<decltype(call_backward)>();
    return op.call(grad_output, value, rest..., needs_grad...);
  }

  /// Defines the schemas of the operator and of its backward.
  static void define(torch::Library& library) {
    std::string flags = ", bool needs_grad_value";
    std::string gradients = "Tensor";
    for (const char* points : op_t::kPointTensors) {
      flags += std::string(", bool needs_grad_") + points;
      gradients += ", Tensor";
    }
    const std::string arguments = op_t::kArguments;
    library.def((std::string(op_t::kName) + "(" + arguments + ") -> Tensor").c_str());
    library.def((backward_name(op_t::kName) + "(Tensor grad_output, " + arguments + flags + ") -> (" + gradients + ")")
                    .c_str());
  }

  static void implement_autograd(torch::Library& library) {
    library.impl(op_t::kName, &differentiable);
    library.impl(backward_name(op_t::kName).c_str(), &once_differentiable);
  }

  static void implement_autocast(torch::Library& library) {
    library.impl(op_t::kName, &autocast);
  }

 private:
  static std::string name() {
    return std::string("flash_internimage::") + op_t::kName;
  }

  class Differentiable : public torch::autograd::Function<Differentiable> {
   public:
    static constexpr bool is_traceable = true;

    static at::Tensor forward(
        torch::autograd::AutogradContext* context, const at::Tensor& value, symbolic_t<op_t, rest_t>... rest) {
      const auto save_tensors = [&](const auto&... points) {
        context->save_for_backward({keep_as_needed(value, (points.requires_grad() || ...)), points...});
      };
      std::apply(save_tensors, tensors_among(rest...));
      size_t position = 0;
      (save_setting<rest_t>(context, position++, rest), ...);
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      return call(value, rest...);
    }

    static torch::autograd::variable_list backward(
        torch::autograd::AutogradContext* context, const torch::autograd::variable_list& grad_outputs) {
      Saved saved{context->get_saved_variables(), context->saved_data};
      // Braces, because they evaluate in order.
      const std::tuple<owned_t<symbolic_t<op_t, rest_t>>...> rest{saved.template next<symbolic_t<op_t, rest_t>>()...};
      const auto run = [&](const auto&... owned) {
        return call_backward(grad_outputs[0], saved.tensors[0], owned..., context->needs_input_grad(tensor)...);
      };
      gradients_t gradients = std::apply(run, rest);
      const std::array<at::Tensor, sizeof...(tensor)> needed = {
          context->needs_input_grad(tensor) ? std::get<tensor>(gradients) : at::Tensor()...};
      torch::autograd::variable_list all = {needed[0]};
      size_t next_tensor = 1;
      (all.push_back(kIsTensor<rest_t> ? needed[next_tensor++] : at::Tensor()), ...);
      return all;
    }

   private:
    template <typename argument_t, typename symbolic>
    static void save_setting(torch::autograd::AutogradContext* context, size_t position, const symbolic& argument) {
      if constexpr (!kIsTensor<argument_t>) {
        context->saved_data[std::to_string(position)] = argument;
      }
    }
  };

  static at::Tensor differentiable(const at::Tensor& value, symbolic_t<op_t, rest_t>... rest) {
    const auto check = [&](const auto&... points) { return is_differentiated(value, points...); };
    if (!std::apply(check, tensors_among(rest...))) {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      return call(value, rest...);
    }
    return Differentiable::apply(value, rest...);
  }

  static gradients_t once_differentiable(
      const at::Tensor& grad_output,
      const at::Tensor& value,
      symbolic_t<op_t, rest_t>... rest,
      flag_t<tensor>... needs_grad) {
    gradients_t gradients;
    {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      gradients = call_backward(grad_output, value, rest..., needs_grad...);
    }
    const auto refuse_twice = [&](const auto&... points) -> gradients_t {
      if (!is_differentiated(grad_output, value, points...)) {
        return gradients;
      }
      const auto once = OnceDifferentiable::apply(
          std::string(op_t::kName), at::TensorList({grad_output, value, points...}),
          at::TensorList({std::get<tensor>(gradients)...}));
      return {once[tensor]...};
    };
    return std::apply(refuse_twice, tensors_among(rest...));
  }

  static at::Tensor autocast(const at::Tensor& value, symbolic_t<op_t, rest_t>... rest) {
    const c10::impl::ExcludeDispatchKeyGuard without_autocast(kAutocastKeys);
    const at::Tensor cast = to_autocast_dtype(value);
    return call(cast, to_points_dtype(rest, cast)...);
  }
};

} // namespace flash_internimage::autograd
