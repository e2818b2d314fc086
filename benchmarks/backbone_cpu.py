"""Time of a backbone on the CPU beside that of its matrix products and convolutions alone.

    python benchmarks/backbone_cpu.py --size t --height 800 --width 1216 --threads 1

The products and convolutions have the same shapes, no bias and a result that is allocated beforehand, so their sum is what
the network would take if all else (norms, GELU, DCNv4 sampling, residuals, allocation) were free. Times are processor
seconds over the number of threads, the least of some runs, which other programs on the machine disturb least.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from detectron2.config import LazyConfig, instantiate
from torch import Tensor, nn

from flash_internimage.layers import DCNv4

CONFIG = Path(__file__).resolve().parent.parent / "configs/common/models/flash_intern_image.py"


def build(size: str) -> nn.Module:
    """A backbone in evaluation mode whose sampling offsets have a spread of about one cell."""
    net = instantiate(LazyConfig.load(str(CONFIG))[f"flash_intern_image_{size}"]).eval()
    for module in net.modules():
        if isinstance(module, DCNv4):
            nn.init.normal_(module.offset_mask.weight, std=module.channels**-0.5)
    return net


def dense_work(net: nn.Module, image: Tensor) -> list[Callable[[], object]]:
    """The matrix products and dense convolutions of one forward pass, each as a call."""
    counts: dict[tuple[nn.Module, torch.Size], int] = {}

    def count(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        counts[module, inputs[0].shape] = counts.get((module, inputs[0].shape), 0) + 1

    dense = [
        module
        for module in net.modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    ]
    hooks = [module.register_forward_hook(count) for module in dense]
    # With gradients MLPs run in one piece, hence one product of full size each.
    net(image)
    for hook in hooks:
        hook.remove()
    return [call for (module, shape), number in counts.items() for call in [dense_call(module, shape)] * number]


# Results and inputs of one shape share their memory, so that the largest network fits.
_BUFFERS: dict[tuple[int, ...], Tensor] = {}


def buffer(*shape: int) -> Tensor:
    if shape not in _BUFFERS:
        _BUFFERS[shape] = torch.randn(shape)
    return _BUFFERS[shape]


def dense_call(module: nn.Linear | nn.Conv2d, shape: torch.Size) -> Callable[[], object]:
    weight = module.weight.detach()
    if isinstance(module, nn.Linear):
        cells = shape.numel() // shape[-1]
        return lambda: torch.mm(buffer(cells, shape[-1]), weight.t(), out=buffer(cells, len(weight)))
    input = buffer(*shape).contiguous(memory_format=torch.channels_last)
    return lambda: nn.functional.conv2d(input, weight, stride=module.stride, padding=module.padding)


def seconds(work: Callable[[], object], threads: int) -> float:
    start = time.process_time()
    work()
    return (time.process_time() - start) / threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["t", "s", "b", "l"], default="t")
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1216)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="also print where the time goes, by operator")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    net, image = build(arguments.size), torch.randn(1, 3, arguments.height, arguments.width)
    calls = dense_work(net, image)
    with torch.no_grad():
        net(image)
        # Taken in turn, so that a change in the machine's speed affects both.
        pairs = [
            (seconds(lambda: [call() for call in calls], arguments.threads), seconds(lambda: net(image), arguments.threads))
            for _ in range(arguments.runs)
        ]
    dense, whole = (min(times) for times in zip(*pairs, strict=True))
    print(f"FlashInternImage-{arguments.size.upper()}, 1 x 3 x {arguments.height} x {arguments.width}, float32, ", end="")
    print(f"{arguments.threads} thread(s)")
    print(f"  {len(calls)} matrix products and convolutions alone  {1e3 * dense:7.0f} ms")
    print(f"  whole backbone                             {1e3 * whole:7.0f} ms   ({whole / dense:.2f} times)")
    if arguments.profile:
        with torch.no_grad(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            net(image)
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=12))


if __name__ == "__main__":
    main()
