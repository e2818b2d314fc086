"""Time of a backbone on the CPU, compared with that of its matrix products and dense convolutions alone.

    OMP_NUM_THREADS=1 python benchmarks/backbone_cpu.py --size t --height 800 --width 1216
    OMP_NUM_THREADS=1 python benchmarks/backbone_cpu.py --dtype bfloat16 --compile

The products and convolutions have the same shapes, no bias and preallocated outputs. Their sum is the
time of the network if everything else (norms, GELU, DCNv4 sampling, residuals, allocation) were free. Times are CPU seconds
divided by the number of threads, the minimum over the runs, which is least affected by other processes. With bfloat16 the
backbone runs under autocast with weights cast beforehand, and the products are in bfloat16. In float32 torch.mm computes the
products with MKL, and the backbone with oneDNN, which is faster on CPUs of AMD with AVX-512: there a ratio can be below 1, and
detector_cpu.py measures the products as the model computes them.
"""

import argparse
import time
from collections.abc import Callable

import torch
from measuring import machine
from torch import Tensor, nn

from flash_internimage.backbones.flash_internimage import FlashInternImageBase
from flash_internimage.backbones.sizes import SIZES
from flash_internimage.layers import DCNv4, cast_weights


def build(size: str) -> nn.Module:
    """Build a backbone in evaluation mode whose sampling offsets have a standard deviation of about one pixel."""
    net = FlashInternImageBase(**SIZES[size]).eval()
    for module in net.modules():
        if isinstance(module, DCNv4):
            nn.init.normal_(module.offset_mask.weight, std=module.channels**-0.5)
    return net


def dense_work(net: nn.Module, image: Tensor, dtype: torch.dtype) -> list[Callable[[], object]]:
    """Return the matrix products and dense convolutions of a forward pass, each as a call in `dtype`."""
    counts: dict[tuple[nn.Module, torch.Size], int] = {}

    def count(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        counts[module, inputs[0].shape] = counts.get((module, inputs[0].shape), 0) + 1

    dense = [
        module
        for module in net.modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    ]
    hooks = [module.register_forward_hook(count) for module in dense]
    # With gradients enabled MLPs are not computed in chunks, so each product is counted once, with its full size.
    net(image)
    for hook in hooks:
        hook.remove()
    return [call for (module, shape), number in counts.items() for call in [dense_call(module, shape, dtype)] * number]


# Inputs and outputs of the same shape share their memory, so that the largest network fits.
_BUFFERS: dict[tuple[int, ...], Tensor] = {}


def buffer(dtype: torch.dtype, *shape: int) -> Tensor:
    """Return the shared buffer of a shape, creating it on first use."""
    if shape not in _BUFFERS:
        _BUFFERS[shape] = torch.randn(shape, dtype=dtype)
    return _BUFFERS[shape]


def dense_call(module: nn.Linear | nn.Conv2d, shape: torch.Size, dtype: torch.dtype) -> Callable[[], object]:
    """Return the product or convolution of a module, for an input of the given shape."""
    weight = module.weight.detach().to(dtype)
    if isinstance(module, nn.Linear):
        rows = shape.numel() // shape[-1]
        return lambda: torch.mm(buffer(dtype, rows, shape[-1]), weight.t(), out=buffer(dtype, rows, len(weight)))
    input = buffer(dtype, *shape).contiguous(memory_format=torch.channels_last)
    return lambda: nn.functional.conv2d(input, weight, stride=module.stride, padding=module.padding)


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds per thread of a call."""
    start = time.process_time()
    work()
    return (time.process_time() - start) / torch.get_num_threads()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["t", "s", "b", "l"], default="t")
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1216)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--compile", action="store_true", help="compile the backbone with torch.compile")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="also print a profile by operator")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)

    net, image = build(options.size), torch.randn(1, 3, options.height, options.width)
    calls = dense_work(net, image, dtype)
    if dtype != torch.float32:
        cast_weights(net, dtype)
    run = torch.compile(net) if options.compile else net
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
    with torch.no_grad(), autocast:
        run(image)
        # Alternate between the two, so that a change in the machine's speed affects both.
        pairs = [(seconds(lambda: [call() for call in calls]), seconds(lambda: run(image))) for _ in range(options.runs)]
    dense, complete = (min(times) for times in zip(*pairs, strict=True))
    kind = f"{options.dtype}{', compiled' if options.compile else ''}"
    print(f"{machine()}\n\nFlashInternImage-{options.size.upper()}, 1 x 3 x {options.height} x {options.width}, {kind}\n")
    print(f"| | ms |\n| --- | ---: |\n| its {len(calls)} matrix products and convolutions alone | {1e3 * dense:.0f} |")
    print(f"| complete backbone | {1e3 * complete:.0f} ({complete / dense:.2f}x) |")
    if options.profile:
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.no_grad(), autocast, torch.profiler.profile(activities=activities) as profile:
            run(image)
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=12))


if __name__ == "__main__":
    main()
