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

_EXAMPLE = 1024
"""Example of a dynamic side, in pixels. ``torch.export`` takes a size of 1 in the example for a constant, so that it must be so
large that even the coarsest feature level, with a stride of up to 512, has several rows. Its pixels are not computed.
"""


def export_program(detector: ExportableDetector, *, batch: int = 1, size: tuple[int, int] | None = None) -> ExportedProgram:
    """Capture a detector with ``torch.export``.

    Args:
        detector: a result of :func:`~flash_internimage.export.exportable_detector`.
        batch: number of images N, which is fixed.
        size: (height, width) of the batch in pixels; None for all heights and widths that are multiples of
            ``detector.divisor``, from ``detector.smallest_side`` to 4096 pixels.

    Returns:
        A program with the arguments and results of ``detector``. ``torch.export`` guards it against sides for which a feature
        level has a single row or column. The graph is right for these as well: ``program.module(check_guards=False)`` takes
        them.

    Raises:
        UserError: the size is not a multiple of ``detector.divisor``.
    """
    divisor = detector.divisor
    if batch < 1 or any(side % divisor or side < divisor for side in size or ()):
        raise UserError(
            f"export: batch should be at least 1, height and width multiples of {divisor} and at least {divisor} pixels, "
            f"got batch={batch} and size={' x '.join(map(str, size or ('any',)))}"
        )
    device = next(detector.parameters()).device
    shapes = None
    if size is None:
        smallest = -(-detector.smallest_side // divisor)
        height, width = (divisor * Dim(name, min=smallest, max=LARGEST_SIDE // divisor) for name in ("rows", "columns"))
        shapes = {"images": {2: height, 3: width}, "sizes": None}
        rows = max(-(-_EXAMPLE // divisor), smallest)
        size = rows * divisor, (rows + 2) * divisor
    images = torch.zeros(batch, 3, *size, dtype=torch.uint8, device=device)
    sizes = torch.tensor([size] * batch, device=device)
    with torch.no_grad():
        return torch.export.export(detector, (images, sizes), dynamic_shapes=shapes, strict=False)


def compile_program(program: ExportedProgram, path: str | os.PathLike[str]) -> str:
    """Compile a program with AOTInductor for the device of its parameters, and write it to ``path`` (``.pt2``).

    It is loaded with ``torch._inductor.aoti_load_package``, and runs only on the type of processor on which it was compiled.

    Returns:
        The path.
    """
    return torch._inductor.aoti_compile_and_package(program, package_path=os.fspath(path))
