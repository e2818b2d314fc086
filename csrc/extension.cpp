// The Python module _C, and the registration of the operators with PyTorch.

#include "autograd/dispatch.h"
#include "autograd/kernel.h"
#include "cpu/capability.h"
#include "cpu/device.h"
#include "cuda/launch.h"
#include "operators.h"

#include <torch/extension.h>
#include <torch/library.h>

#ifdef WITH_CUDA
#include "cuda/device.h"

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

/// How this library was built, and the CPU instruction set that it uses on this machine.
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
pybind11::dict plan_cuda_launch(int64_t units, int64_t channels, int64_t width, int64_t multiprocessors) {
  constexpr int64_t kBlocksPerGrid = (int64_t(1) << 31) - 1;
  const auto launch =
      flash_internimage::cuda::plan_launch({units, channels, width}, {multiprocessors, kBlocksPerGrid, true});
  pybind11::dict plan;
  plan["lanes"] = launch.lanes;
  plan["units_per_block"] = launch.units_per_block;
  plan["threads"] = launch.threads;
  plan["blocks"] = launch.blocks;
  return plan;
}

extern "C" {
/// flash_internimage/ops/_extension.py reads this from the file, to say why a library for another PyTorch does not load.
__attribute__((used)) const char flash_internimage_built_for[] = "flash_internimage built for torch " TORCH_VERSION;
}

#ifndef WITH_CUDA
/// Replaces the CUDA kernels in a build without them: an error that says how to build them.
void refuse_cuda(const c10::OperatorHandle& op, torch::jit::Stack*) {
  TORCH_CHECK(
      false, op.schema().name(),
      ": flash_internimage was built without CUDA kernels, got a CUDA tensor; install a CUDA compiler with "
      "`pip install \"" FLASH_INTERNIMAGE_CUDA_COMPILER "\"`, unless there is one, and build again with "
      "`FORCE_CUDA=1 pip install --no-build-isolation --force-reinstall --no-deps .`");
}
#endif

} // namespace

using namespace flash_internimage;

TORCH_LIBRARY(flash_internimage, library) {
  for_each_operator([&](auto op) { autograd::Dispatch<decltype(op)>::define(library); });
}

TORCH_LIBRARY_IMPL(flash_internimage, CPU, library) {
  for_each_operator([&](auto op) { autograd::Kernel<decltype(op), cpu::Device>::implement(library); });
}

TORCH_LIBRARY_IMPL(flash_internimage, CUDA, library) {
#ifdef WITH_CUDA
  for_each_operator([&](auto op) { autograd::Kernel<decltype(op), cuda::Device>::implement(library); });
#else
  for_each_operator([&](auto op) {
    for (const std::string& name : {std::string(op.kName), autograd::backward_name(op.kName)}) {
      library.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&refuse_cuda>());
    }
  });
#endif
}

TORCH_LIBRARY_IMPL(flash_internimage, Autograd, library) {
  for_each_operator([&](auto op) { autograd::Dispatch<decltype(op)>::implement_autograd(library); });
}

TORCH_LIBRARY_IMPL(flash_internimage, AutocastCPU, library) {
  for_each_operator([&](auto op) { autograd::Dispatch<decltype(op)>::implement_autocast(library); });
}

TORCH_LIBRARY_IMPL(flash_internimage, AutocastCUDA, library) {
  for_each_operator([&](auto op) { autograd::Dispatch<decltype(op)>::implement_autocast(library); });
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  module.doc() = "Compiled operators of flash_internimage.";
  module.def("build_info", &build_info, "How this library was built, and the CPU instruction set that it uses here.");
  module.def(
      "plan_cuda_launch", &plan_cuda_launch,
      "The grid and block that a CUDA kernel would get on a device with these properties.", pybind11::arg("units"),
      pybind11::arg("channels"), pybind11::arg("width"), pybind11::arg("multiprocessors"));

  // The operators without torch.ops, whose overhead exceeds the time of a small kernel. torch.compile and torch.export
  // cannot trace these, so Python calls torch.ops while tracing.
  for_each_operator([&](auto op) {
    using dispatch_t = autograd::Dispatch<decltype(op)>;
    const pybind11::call_guard<pybind11::gil_scoped_release> without_gil;
    module.def(op.kName, &dispatch_t::call, without_gil);
    module.def(autograd::backward_name(op.kName).c_str(), &dispatch_t::call_backward, without_gil);
  });
}
