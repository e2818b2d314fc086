"""Time of DCNv4 on a GPU, compared with PyPI's DCNv4 1.0.0.post2 in the same run, after comparing their outputs.

    pip install --no-build-isolation DCNv4==1.0.0.post2
    python benchmarks/dcnv4_cuda.py > benchmarks/results/dcnv4_cuda.md

The shapes are those of all stages of FlashInternImage-T, S, B and L for an 800 x 1344 image (800 x 1333, padded), with batch
sizes 1, 2 and 8; offsets are drawn from N(0, 1) in pixels. If the peer fails, the table has the reason instead of its times.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from flash_internimage.ops import dcnv4

GROUPS = {"T": (4, 8, 16, 32), "S": (5, 10, 20, 40), "B": (7, 14, 28, 56), "L": (10, 20, 40, 80)}
STRIDES = (4, 8, 16, 32)
HEIGHT, WIDTH = 800, 1344
GROUP_CHANNELS = 16
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Shape(NamedTuple):
    name: str
    batch: int
    height: int
    width: int
    groups: int

    def draw(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Draw value and offset_mask on the GPU."""
        pixels = (self.batch, self.height, self.width)
        value = torch.randn(*pixels, self.groups * GROUP_CHANNELS, device="cuda", dtype=dtype)
        return value, torch.randn(*pixels, (27 * self.groups + 7) // 8 * 8, device="cuda", dtype=dtype)


def shapes() -> Iterator[Shape]:
    for size, groups_of_stages in GROUPS.items():
        for stage, (stride, groups) in enumerate(zip(STRIDES, groups_of_stages, strict=True), start=2):
            for batch in (1, 2, 8):
                yield Shape(f"{size} res{stage}", batch, -(-HEIGHT // stride), -(-WIDTH // stride), groups)


def ours(value: Tensor, offset_mask: Tensor, groups: int) -> Tensor:
    return dcnv4(value, offset_mask, 3, padding=1, groups=groups)


def peer() -> Callable[[Tensor, Tensor, int], Tensor]:
    try:
        from DCNv4.functions import DCNv4Function
    except ImportError as error:
        sys.exit(f"dcnv4_cuda: the peer cannot be imported ({error}); pip install --no-build-isolation DCNv4==1.0.0.post2")
    window, images_at_once = (3, 3, 1, 1, 1, 1, 1, 1), 256

    def call(value: Tensor, offset_mask: Tensor, groups: int) -> Tensor:
        return DCNv4Function.apply(value, offset_mask, *window, groups, GROUP_CHANNELS, 1.0, images_at_once, 0)

    return call


def median_milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Return the median time by CUDA events, after three warm-up calls."""
    times = []
    for repeat in range(repeats + 3):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        if repeat >= 3:
            times.append(start.elapsed_time(end))
    return statistics.median(times)


def measure(operator: Callable[..., Tensor], shape: Shape, dtype: torch.dtype, repeats: int) -> tuple[Tensor, float, float]:
    """Return the output, and the milliseconds of forward and of backward."""
    torch.manual_seed(0)
    value, offset_mask = (tensor.requires_grad_() for tensor in shape.draw(dtype))
    output = operator(value, offset_mask, shape.groups)
    grad = torch.ones_like(output)
    with torch.no_grad():
        forward = median_milliseconds(lambda: operator(value, offset_mask, shape.groups), repeats)
    backward = median_milliseconds(lambda: torch.autograd.grad(output, (value, offset_mask), grad, retain_graph=True), repeats)
    return output.detach(), forward, backward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("dcnv4_cuda: no GPU was found; this benchmark needs one")
    call_peer = peer()

    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}\n")
    print("Milliseconds, medians; in parentheses relative to this project.\n")
    print("| shape | batch | dtype | forward | peer's forward | backward | peer's backward |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: |")
    for shape in shapes():
        for name, dtype in DTYPES.items():
            output, forward, backward = measure(ours, shape, dtype, options.repeats)
            try:
                peer_output, peer_forward, peer_backward = measure(call_peer, shape, dtype, options.repeats)
                # Half precision has 8 or 11 significant bits, and 9 samples are summed.
                tolerance = 1e-4 if dtype == torch.float32 else 0.1
                torch.testing.assert_close(output, peer_output, rtol=tolerance, atol=tolerance)
                cells = [
                    f"{peer_forward:.3f} ({peer_forward / forward:.2f}x)",
                    f"{peer_backward:.3f} ({peer_backward / backward:.2f}x)",
                ]
            except (RuntimeError, AssertionError) as error:
                reason = str(error).strip().splitlines()[0]
                cells = [f"failed: {reason}"] * 2
            print(
                f"| {shape.name} | {shape.batch} | {name} | {forward:.3f} | {cells[0]} | {backward:.3f} | {cells[1]} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
