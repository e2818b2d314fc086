"""Writing a detector as a ``torch.export`` program, an AOTInductor package or an ONNX file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from flash_internimage.errors import UserError
from flash_internimage.packages import require

from .detector import ExportableDetector
from .metadata import INPUTS, KEY, Metadata
from .program import export_program
from .runtime import METADATA_FILE

OPERATOR_FORMS: dict[str, tuple[Any, Any]] = {
    "onnxruntime": ("deform_conv", "grid_sample"),
    "openvino": ("grid_sample", "grid_sample"),
    "tensorrt": ("gather", "gather"),
}
"""Forms of DCNv4 and of multi-scale deformable attention for each runtime, of those in :mod:`.onnx_operators`.

- onnxruntime runs ``DeformConv`` on the CPU from 1.25, finite at NaN offsets from 1.26, in a third of the time of
  ``GridSample``, which takes a third of the time of gathers.
- OpenVINO has no rule for ``DeformConv``, and its ``GridSample`` is faster than its own deformable convolution.
- TensorRT 10.13 to 11.1 is reported to compute wrong results for ``GridSample``, without an error, and has no ``DeformConv``.
"""


def program_of(detector: ExportableDetector, metadata: Metadata) -> torch.export.ExportedProgram:
    """Capture a detector with ``torch.export``, for the image sizes in the metadata."""
    size = None if metadata.height is None or metadata.width is None else (metadata.height, metadata.width)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return export_program(detector, batch=metadata.batch, size=size)


def write(program: torch.export.ExportedProgram, path: str | os.PathLike[str], metadata: Metadata) -> None:
    """Write a program with its metadata, in the format that the metadata name.

    Raises:
        UserError: a package of the extra ``[export]`` is missing.
    """
    path = Path(path)
    if metadata.format == "pt2":
        torch.export.save(program, path, extra_files={METADATA_FILE: metadata.to_json()})
    elif metadata.format == "aot":
        configs = {"aot_inductor.metadata": {KEY: metadata.to_json()}}
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=configs)
    else:
        properties = {KEY: metadata.to_json()}
        to_onnx(program, path, OPERATOR_FORMS[metadata.target], INPUTS, metadata.output_names, properties)


def require_packages(format_: str, target: str) -> None:
    """Import what writing and verifying a format needs, so that a missing package is reported before the work starts.

    Raises:
        UserError: a package is missing.
    """
    if format_ == "onnx":
        for name in ("onnx", "onnxscript", "onnxruntime"):
            require(name, "export: the format onnx")
        if target == "openvino":
            require("openvino", "export: verifying a file for OpenVINO")


def check_precision(format_: str, precision: str) -> None:
    """Refuse a precision that a format does not have.

    Raises:
        UserError: bfloat16 in ONNX, whose ``Conv`` takes it from opset 22 only, and onnxruntime's on the CPU not at all.
    """
    if format_ == "onnx" and precision == "bf16":
        raise UserError(
            "export: an ONNX file should be in fp32 or fp16, got bf16, which convolutions of ONNX opset 19 do not take; choose "
            "--precision fp16, or --format pt2"
        )


def to_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    forms: tuple[Any, Any],
    input_names: Sequence[str],
    output_names: Sequence[str],
    properties: Mapping[str, str],
) -> None:
    """Translate a program into an ONNX file.

    Args:
        forms: of DCNv4 and of multi-scale deformable attention, as in :data:`OPERATOR_FORMS`.
        properties: metadata of the file.
    """
    onnx = require("onnx", "export: the format onnx")
    require("onnxscript", "export: the format onnx")
    from .onnx_operators import OPSET, translation_table

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            program,
            input_names=list(input_names),
            output_names=list(output_names),
            opset_version=OPSET,
            custom_translation_table=translation_table(*forms),
            verbose=False,
            optimize=False,  # the optimizer may put nodes before their inputs; runtimes optimize when they load a file
        )
    assert exported is not None
    exported.model.metadata_props.update(properties)
    for node in exported.model.graph.all_nodes():
        # The exporter writes stack traces, with paths of this machine, beside each node.
        node.metadata_props.clear()
        node.doc_string = None
    exported.save(str(path), external_data=False)
    onnx.checker.check_model(str(path), full_check=True)
