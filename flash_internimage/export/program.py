"""Programs of ``torch.export`` (``.pt2``) of detectors, and their compilation with AOTInductor.

Loading one needs this package's operators (``import flash_internimage.ops``) and those of torchvision, but no model code.
"""

from __future__ import annotations

import os

import torch
from torch.export import Dim, ExportedProgram

from flash_internimage.errors import UserError

from .detector import ExportableDetector

LARGEST_SIDE = 4096


def export_program(
    detector: ExportableDetector, *, batch: int = 1, size: tuple[int, int], dynamic: bool = False
) -> ExportedProgram:
    """Capture a detector with ``torch.export``.

    Args:
        detector: a result of :func:`~flash_internimage.export.exportable_detector`.
        batch: number of images N, which is fixed.
        size: (height, width) of the batch in pixels. With dynamic sizes, that of the example.
        dynamic: accept all heights and widths that are multiples of ``detector.divisor``, from ``detector.smallest_side`` to
            4096 pixels. PyTorch assumes that no feature level has a single row or column: run in PyTorch, and not exported to
            ONNX, the program raises an error for sides below ``detector.smallest_side + detector.divisor``.

    Returns:
        A program with the arguments and results of ``detector``.

    Raises:
        UserError: the size is too small, or not a multiple of ``detector.divisor``.
    """
    divisor = detector.divisor
    smallest = detector.smallest_side if dynamic else divisor
    if batch < 1 or any(side % divisor or side < smallest for side in size):
        raise UserError(
            f"export: batch should be at least 1, height and width multiples of {divisor} and at least {smallest} pixels, "
            f"got batch={batch} and size={size[0]} x {size[1]}"
        )
    device = next(detector.parameters()).device
    images = torch.zeros(batch, 3, *size, dtype=torch.uint8, device=device)
    sizes = torch.tensor([size] * batch, device=device)
    shapes = None
    if dynamic:
        height, width = (
            divisor * Dim(name, min=-(-smallest // divisor), max=LARGEST_SIDE // divisor) for name in ("rows", "columns")
        )
        shapes = {"images": {2: height, 3: width}, "sizes": None}
    with torch.no_grad():
        return torch.export.export(detector, (images, sizes), dynamic_shapes=shapes, strict=False)


def compile_program(program: ExportedProgram, path: str | os.PathLike[str]) -> str:
    """Compile a program with AOTInductor for the device of its parameters, and write it to ``path`` (``.pt2``).

    It is loaded with ``torch._inductor.aoti_load_package``, and runs only on the type of processor on which it was compiled.

    Returns:
        The path.
    """
    return torch._inductor.aoti_compile_and_package(program, package_path=os.fspath(path))
