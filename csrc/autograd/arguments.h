// The argument list of an operator, taken from that of its `check`: value first, then point tensors and settings in any
// order. Everything here works on such a list, so that no operator repeats it.

#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <c10/core/SymIntArrayRef.h>

#include <array>
#include <cstddef>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace flash_internimage::autograd {

inline std::string backward_name(const std::string& name) {
  return name + "_backward";
}

/// How many tensors an operator takes: value and the point tensors.
template <typename op_t>
constexpr size_t kTensors = 1 + op_t::kPointTensors.size();

template <typename argument_t>
constexpr bool kIsTensor = std::is_same_v<argument_t, const at::Tensor&>;

/// The type of an argument in calls that go through the dispatcher, where sizes may be symbolic.
template <typename op_t, typename argument_t>
using symbolic_t =
    std::conditional_t<op_t::kSymbolic && std::is_same_v<argument_t, at::IntArrayRef>, c10::SymIntArrayRef, argument_t>;

/// One type for each tensor of an operator, to expand over their numbers.
template <size_t>
using tensor_t = at::Tensor;
template <size_t>
using flag_t = bool;

/// The tensors among some arguments, as a tuple of references.
template <typename... arguments_t>
auto tensors_among(const arguments_t&... arguments) {
  const auto one_or_none = [](const auto& argument) {
    if constexpr (std::is_same_v<std::decay_t<decltype(argument)>, at::Tensor>) {
      return std::tuple<const at::Tensor&>(argument);
    } else {
      return std::tuple<>();
    }
  };
  return std::tuple_cat(one_or_none(arguments)...);
}

/// An argument that outlives the call.
template <typename argument_t>
struct Owned {
  using type = std::decay_t<argument_t>;
};
template <>
struct Owned<at::IntArrayRef> {
  using type = std::vector<int64_t>;
};
template <>
struct Owned<c10::SymIntArrayRef> {
  using type = std::vector<c10::SymInt>;
};
template <typename argument_t>
using owned_t = typename Owned<argument_t>::type;

template <typename owned_type>
owned_type from_ivalue(const at::IValue& saved) {
  if constexpr (std::is_same_v<owned_type, std::vector<int64_t>>) {
    return saved.toIntVector();
  } else if constexpr (std::is_same_v<owned_type, std::vector<c10::SymInt>>) {
    return saved.toSymIntVector();
  } else {
    return saved.to<owned_type>();
  }
}

} // namespace flash_internimage::autograd
