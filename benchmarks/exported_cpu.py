"""Time of exported files on the CPU, beside the model that they were exported from.

    OMP_NUM_THREADS=1 python benchmarks/exported_cpu.py --config-file CONFIG --weights CHECKPOINT model.onnx model.pt2

CPU time of this process is measured, so that other processes on the machine affect the result less. Files that were written for
OpenVINO run in OpenVINO, other ONNX files in onnxruntime.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable

import torch
from measuring import machine
from torch import Tensor
from torch.nn import functional

from flash_internimage.cli.arguments import config_path
from flash_internimage.engine.config import load_config
from flash_internimage.export.metadata import Metadata
from flash_internimage.export.runtime import load
from flash_internimage.export.verification import example_batches
from flash_internimage.inference.loading import load_model


def fastest(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Lowest CPU time of each call after two warm-up calls, in milliseconds. The calls take turns, under the same load."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 2):
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    return {name: 1000 * min(measured[2:]) for name, measured in times.items()}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("files", nargs="+", help="files that were exported from these weights")
    args = parser.parse_args()
    cfg = load_config(config_path(args.config_file), [], eval_only=True)
    model, _ = load_model(cfg, args.weights)
    first = load(args.files[0])[1]
    batch = [{"image": image} for image in _images(first)]
    calls: dict[str, Callable[[], object]] = {"model": lambda: model(batch)}
    for file in args.files:
        runtime = "openvino" if load(file)[1].target == "openvino" else None
        run, about = load(file, runtime=runtime)
        images = _images(about)
        sizes = torch.tensor([images.shape[2:]] * about.batch)
        name = runtime or ("onnxruntime" if about.format == "onnx" else about.format)
        calls[f"{name}, {file}"] = functools.partial(run, images, sizes)
    print(
        f"{machine()}\n\n| {' x '.join(map(str, batch[0]['image'].shape))} | CPU time, ms | of the model |\n| --- | --- | --- |"
    )
    measured = fastest(calls, args.repeats)
    for name, milliseconds in measured.items():
        print(f"| {name} | {milliseconds:.1f} | {milliseconds / measured['model']:.2f} |", flush=True)


def _images(about: Metadata) -> Tensor:
    """A batch of the size to which most images are resized."""
    images, _ = next(example_batches(about))
    size = about.height or about.padded(about.short_side), about.width or about.padded(about.long_side)
    return functional.interpolate(images, size)


if __name__ == "__main__":
    main()
