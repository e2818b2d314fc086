// An operator on the tensors of one device: checks, outputs, and the call of its kernels.

#pragma once

#include "../core/call.h"
#include "arguments.h"
#include "checks.h"

#include <ATen/Context.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <array>
#include <string>

namespace flash_internimage::autograd {

/// The kernels of the operator `op_t` for the dispatch key of `device_t`: cpu/device.h or cuda/device.h. `rest_t` are
/// its arguments after value, and `tensor` are the numbers of its tensors, 0 for value.
template <
    typename op_t,
    typename device_t,
    typename check_t = decltype(op_t::check),
    typename tensors_t = std::make_index_sequence<kTensors<op_t>>>
class Kernel;

template <typename op_t, typename device_t, typename... rest_t, size_t... tensor>
class Kernel<op_t, device_t, typename op_t::Geometry(const at::Tensor&, rest_t...), std::index_sequence<tensor...>> {
 public:
  static void implement(torch::Library& library) {
    library.impl(op_t::kName, &forward);
    library.impl(backward_name(op_t::kName).c_str(), &backward);
  }

 private:
  using gradients_t = std::tuple<tensor_t<tensor>...>;
  static constexpr size_t kPointTensors = op_t::kPointTensors.size();
  using tensors_t = std::array<at::Tensor, kPointTensors>;

  static at::Tensor forward(const at::Tensor& value, rest_t... rest) {
    const auto geometry = op_t::check(value, rest...);
    [[maybe_unused]] const typename device_t::Guard guard(value.device());
    at::Tensor output = at::empty(geometry.output_shape(), value.options());
    if (output.numel() == 0) {
      return output;
    }
    const at::Tensor cells = value.contiguous();
    const tensors_t points = contiguous(rest...);
    Call<op_t> call = {geometry, value.scalar_type(), points[0].scalar_type()};
    call.value = cells.const_data_ptr();
    call.points = addresses(points);
    call.output = output.mutable_data_ptr();
    device_t::forward(call);
    return output;
  }

  static gradients_t backward(
      const at::Tensor& grad_output, const at::Tensor& value, rest_t... rest, flag_t<tensor>... needs_grad) {
    const auto geometry = op_t::check(value, rest...);
    check_grad_output(op_t::kName, grad_output, value, geometry.output_shape());
    const std::array<bool, sizeof...(tensor)> needs = {needs_grad...};
    if (needs[0] && !device_t::kDeterministic) {
      at::globalContext().alertNotDeterministic(backward_name(op_t::kName) + "_cuda");
    }
    [[maybe_unused]] const typename device_t::Guard guard(value.device());
    // Without elements to sample or to sum, all gradients are zero.
    const bool runs = (needs_grad || ...) && grad_output.numel() > 0 && value.numel() > 0 && geometry.group_points > 0;

    const at::Tensor grad_sum = needs[0]
        ? at::zeros(value.sizes(), value.options().dtype(at::toOpMathType(value.scalar_type())))
        : at::empty({0}, value.options());
    const tensors_t points = contiguous(rest...);
    tensors_t grad_points;
    Call<op_t> call = {geometry, value.scalar_type(), points[0].scalar_type()};
    for (size_t i = 0; i < kPointTensors; ++i) {
      const auto options = points[i].options();
      if (!needs[1 + i]) {
        grad_points[i] = at::empty({0}, options);
        continue;
      }
      grad_points[i] = runs ? at::empty(points[i].sizes(), options) : at::zeros(points[i].sizes(), options);
      call.grad_points[i] = grad_points[i].mutable_data_ptr();
    }
    if (runs) {
      const int64_t unused = geometry.unused_point_elements();
      if (!device_t::kWritesUnused && needs[1] && unused > 0) {
        grad_points[0].narrow(-1, grad_points[0].size(-1) - unused, unused).zero_();
      }
      const at::Tensor grad_cells = grad_output.contiguous();
      // Without gradients of points value is not read, and a caller may pass its shape alone (dispatch.h).
      const at::Tensor cells = call.needs_grad_points() ? value.contiguous() : value;
      call.value = cells.const_data_ptr();
      call.points = addresses(points);
      call.grad_output = grad_cells.const_data_ptr();
      call.grad_value = needs[0] ? grad_sum.mutable_data_ptr() : nullptr;
      device_t::backward(call);
    }
    return result(grad_sum.to(value.scalar_type()), grad_points, std::make_index_sequence<kPointTensors>());
  }

  static tensors_t contiguous(const rest_t&... rest) {
    return std::apply([](const auto&... points) { return tensors_t{points.contiguous()...}; }, tensors_among(rest...));
  }

  static std::array<const void*, kPointTensors> addresses(const tensors_t& tensors) {
    std::array<const void*, kPointTensors> all;
    for (size_t i = 0; i < kPointTensors; ++i) {
      all[i] = tensors[i].const_data_ptr();
    }
    return all;
  }

  template <size_t... i>
  static gradients_t result(at::Tensor grad_value, const tensors_t& grad_points, std::index_sequence<i...>) {
    return {std::move(grad_value), grad_points[i]...};
  }
};

} // namespace flash_internimage::autograd
