// The Python module _C and the schemas of the operators. Kernels register themselves beside their sources.

#include "cpu/capability.h"
#include "cuda/launch.h"
#include "dcnv4/dcnv4.h"
#include "ms_deform_attn/ms_deform_attn.h"

#include <torch/extension.h>
#include <torch/library.h>

#ifdef WITH_CUDA
#include <cuda_runtime_api.h>
#endif

#include <string>

namespace {

std::string compiler() {
#if defined(__clang__)
  return "Clang " __clang_version__;
#elif defined(__GNUC__)
  return "GCC " __VERSION__;
#elif defined(_MSC_VER)
  return "MSVC " + std::to_string(_MSC_VER);
#else
  return "unknown";
#endif
}

/// How this library was built and what it uses of the machine it runs on.
pybind11::dict build_info() {
  pybind11::dict info;
#ifdef WITH_CUDA
  info["cuda"] = true;
  info["cuda_version"] = std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
  info["cuda_architectures"] = FLASH_INTERNIMAGE_CUDA_ARCHITECTURES;
#else
  info["cuda"] = false;
  info["cuda_version"] = pybind11::none();
  info["cuda_architectures"] = pybind11::none();
#endif
  info["compiler"] = compiler();
  info["torch_version"] = TORCH_VERSION;
#ifdef _OPENMP
  info["openmp"] = true;
#else
  info["openmp"] = false;
#endif
  info["cpu_capability"] = flash_internimage::cpu::name(flash_internimage::cpu::capability());
  return info;
}

/// cuda/launch.h for Python, in builds with and without CUDA: it needs no device.
pybind11::dict plan_cuda_launch(
    int64_t units,
    int64_t channels,
    int64_t vector_width,
    int64_t points,
    int64_t bytes_per_point,
    int64_t multiprocessors,
    int64_t threads_per_multiprocessor,
    int64_t shared_bytes_per_multiprocessor,
    int64_t shared_bytes_per_block) {
  constexpr int64_t kWarpSize = 32;
  constexpr int64_t kBlocksPerGrid = (int64_t(1) << 31) - 1;
  const auto launch = flash_internimage::cuda::plan_launch(
      {units, channels, vector_width, points, bytes_per_point},
      {kWarpSize, multiprocessors, threads_per_multiprocessor, shared_bytes_per_multiprocessor, shared_bytes_per_block,
       kBlocksPerGrid});
  pybind11::dict plan;
  plan["lanes"] = launch.lanes;
  plan["units_per_block"] = launch.units_per_block;
  plan["threads"] = launch.threads;
  plan["points_per_pass"] = launch.points_per_pass;
  plan["shared_bytes"] = launch.shared_bytes;
  plan["blocks"] = launch.blocks;
  return plan;
}

#ifndef WITH_CUDA
/// Stands in for every CUDA kernel of a build without them, so that the error says what to do.
void refuse_cuda(const c10::OperatorHandle& op, torch::jit::Stack*) {
  TORCH_CHECK(
      false, op.schema().name(),
      ": flash_internimage was built without CUDA kernels, got a CUDA tensor; reinstall it where a "
      "CUDA toolkit is found, or with FORCE_CUDA=1 to see what is missing");
}
#endif

} // namespace

TORCH_LIBRARY(flash_internimage, library) {
  library.def(
      "dcnv4(Tensor value, Tensor offset_mask, int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, "
      "int groups, float offset_scale, bool remove_center) -> Tensor");
  library.def(
      "dcnv4_backward(Tensor grad_output, Tensor value, Tensor offset_mask, int[2] kernel_size, int[2] stride, "
      "int[2] padding, int[2] dilation, int groups, float offset_scale, bool remove_center, bool needs_grad_value, "
      "bool needs_grad_offset_mask) -> (Tensor, Tensor)");
  library.def(
      "ms_deform_attn(Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations, Tensor attention_weights) "
      "-> Tensor");
  library.def(
      "ms_deform_attn_backward(Tensor grad_output, Tensor value, SymInt[] spatial_shapes, Tensor sampling_locations, "
      "Tensor attention_weights, bool needs_grad_value, bool needs_grad_sampling_locations, "
      "bool needs_grad_attention_weights) -> (Tensor, Tensor, Tensor)");
}

#ifndef WITH_CUDA
TORCH_LIBRARY_IMPL(flash_internimage, CUDA, library) {
  for (const char* name : {"dcnv4", "dcnv4_backward", "ms_deform_attn", "ms_deform_attn_backward"}) {
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&refuse_cuda>());
  }
}
#endif

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  module.doc() = "Compiled operators of flash_internimage.";
  module.def("build_info", &build_info, "How this library was built, and the CPU instruction set that it uses here.");
  module.def(
      "plan_cuda_launch", &plan_cuda_launch,
      "The grid and block that a CUDA kernel would get on a device with these properties.", pybind11::arg("units"),
      pybind11::arg("channels"), pybind11::arg("vector_width"), pybind11::arg("points"),
      pybind11::arg("bytes_per_point"), pybind11::arg("multiprocessors"), pybind11::arg("threads_per_multiprocessor"),
      pybind11::arg("shared_bytes_per_multiprocessor"), pybind11::arg("shared_bytes_per_block"));

  // The operators without the detour by torch.ops, which takes longer than a small kernel. Compilers do not see through
  // these, so Python calls torch.ops where something is traced.
  const pybind11::call_guard<pybind11::gil_scoped_release> without_gil;
  using namespace flash_internimage;
  module.def("dcnv4", &dcnv4::with_arguments<dcnv4::call>, without_gil);
  module.def("dcnv4_backward", &dcnv4::with_backward_arguments<dcnv4::call_backward>, without_gil);
  module.def("ms_deform_attn", &ms_deform_attn::call, without_gil);
  module.def("ms_deform_attn_backward", &ms_deform_attn::call_backward, without_gil);
}
