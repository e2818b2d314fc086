// Runs an operator's CPU kernels: the instruction set, and what each thread does.

#pragma once

#include "capability.h"
#include "kernel_table.h"

#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>
#include <c10/core/Device.h>

#include <algorithm>

namespace flash_internimage::cpu {

/// The table for the instruction set to run.
template <typename op_t>
const KernelTable<op_t>& chosen_kernels() {
  static const KernelTable<op_t> chosen = capability() == Capability::Avx512 ? avx512::kernels<op_t>()
      : capability() == Capability::Avx2                                     ? avx2::kernels<op_t>()
                                                                             : generic::kernels<op_t>();
  return chosen;
}

struct Device {
  static constexpr bool kDeterministic = true;
  static constexpr bool kWritesUnused = false;

  struct Guard {
    explicit Guard(at::Device) {}
  };

  template <typename op_t>
  static void forward(const Call<op_t>& call) {
    const auto& geometry = call.geometry;
    // Samples of one channel, the unit of PyTorch's grain size for cheap operations.
    const int64_t work = std::max<int64_t>(1, geometry.channels() * geometry.group_points);
    const int64_t grain = std::max<int64_t>(1, at::internal::GRAIN_SIZE / work);
    const auto& kernels = chosen_kernels<op_t>();
    at::parallel_for(0, geometry.batch * geometry.outputs, grain, [&](int64_t first, int64_t last) {
      kernels.forward(call, first, last);
    });
  }

  /// Distributes each image's groups over the threads, and parts of their feature maps as well if the groups are too
  /// few. Every element is summed in the order of outputs whichever thread owns it, so the result does not depend on
  /// the number of threads.
  template <typename op_t>
  static void backward(const Call<op_t>& call) {
    const auto& geometry = call.geometry;
    const int64_t groups = geometry.batch * geometry.groups;
    const int64_t threads = at::get_num_threads();
    const int64_t parts = groups >= threads ? 1 : geometry.parts((threads + groups - 1) / groups);
    const auto& kernels = chosen_kernels<op_t>();
    at::parallel_for(0, groups * parts, 1, [&](int64_t first, int64_t last) {
      while (first < last) {
        const int64_t group = first / parts % geometry.groups;
        // Groups of one image are processed together, because they share cache lines.
        const int64_t together = parts > 1 ? 1 : std::min(last - first, geometry.groups - group);
        kernels.backward(
            call,
            {first / parts / geometry.groups, static_cast<int32_t>(group), static_cast<int32_t>(group + together),
             static_cast<int32_t>(first % parts), static_cast<int32_t>(parts)});
        first += together;
      }
    });
  }
};

} // namespace flash_internimage::cpu
