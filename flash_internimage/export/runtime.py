"""Inference with an exported file, as a function of arrays or with the interface of detectron2's models."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from flash_internimage.errors import UserError
from flash_internimage.packages import require

from .metadata import INPUTS, KEY, Metadata

Detect = Callable[[Tensor, Tensor], Sequence[Tensor]]
"""Function of images (N, 3, H, W) and their sizes (N, 2) -> the outputs of the file."""

METADATA_FILE = "flash_internimage.json"


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether a path is that of an exported file, by its suffix."""
    return Path(path).suffix in (".onnx", ".pt2")


def load(
    path: str | os.PathLike[str], device: torch.device | str = "cpu", runtime: str | None = None
) -> tuple[Detect, Metadata]:
    """Load an exported file.

    Args:
        device: where onnxruntime runs it. A ``.pt2`` file runs where it was exported.
        runtime: "onnxruntime" or "openvino" for an ONNX file; None for onnxruntime.

    Raises:
        UserError: there is no such file, it is not one that ``flash-internimage export`` wrote, or a package is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.suffix == ".onnx":
        return (_load_openvino if runtime == "openvino" else _load_onnxruntime)(path, torch.device(device))
    return _load_pt2(path)


class ExportedDetector(nn.Module):
    """An exported file with the interface of detectron2's models: list of input dicts -> list of dicts with ``instances``.

    Args:
        path: the file.
        device: see :func:`load`.

    Attributes:
        metadata: the description stored in the file.
    """

    def __init__(self, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.path = str(path)
        self.detect, self.metadata = load(path, device)

    @torch.no_grad()
    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Detect objects.

        Args:
            batched_inputs: dicts with ``image`` (3, H, W) of ``uint8`` in the channel order of the file, resized, and
                optionally ``height`` and ``width`` of the original image.

        Returns:
            ``{"instances": Instances}`` for each image, as the model returns it.

        Raises:
            UserError: an image is larger than the fixed size of the file.
        """
        at_once = self.metadata.batch
        results = []
        for start in range(0, len(batched_inputs), at_once):
            part = batched_inputs[start : start + at_once]
            images, sizes = self._pad([entry["image"] for entry in part], at_once)
            outputs = dict(zip(self.metadata.output_names, self.detect(images, sizes), strict=True))
            for row, entry in enumerate(part):
                results.append({"instances": _instances({name: x[row] for name, x in outputs.items()}, sizes[row], entry)})
        return results

    def _pad(self, images: Sequence[Tensor], batch: int) -> tuple[Tensor, Tensor]:
        """Pad images to one batch of the size that the file takes; return it with the sizes of its images.

        A batch with too few images is filled with copies of the last one.
        """
        images = [*images, *[images[-1]] * (batch - len(images))]
        sizes = torch.tensor([image.shape[-2:] for image in images], dtype=torch.int64)
        largest = sizes.amax(dim=0).tolist()
        fixed = (self.metadata.height, self.metadata.width)
        height, width = (side or self.metadata.padded(needed) for side, needed in zip(fixed, largest, strict=True))
        if largest[0] > height or largest[1] > width:
            raise UserError(
                f"{self.path}: images must fit its fixed size of {height} x {width} pixels, got {largest[0]} x {largest[1]}; "
                "resize them to fit, or export with --dynamic"
            )
        padded = torch.zeros((batch, 3, height, width), dtype=torch.uint8)
        for target, image in zip(padded, images, strict=True):
            target[:, : image.shape[1], : image.shape[2]] = image
        return padded, sizes


def _instances(outputs: dict[str, Tensor], size: Tensor, entry: dict[str, Any]) -> Instances:
    """The detections of one image, in pixels of the original image."""
    count = int(outputs["counts"])
    height, width = size.tolist()
    instances = Instances((height, width))
    instances.pred_boxes = Boxes(outputs["boxes"][:count])
    instances.scores = outputs["scores"][:count]
    instances.pred_classes = outputs["classes"][:count]
    if "masks" in outputs:
        instances.pred_masks = outputs["masks"][:count, None]
    return detector_postprocess(instances, entry.get("height", height), entry.get("width", width))


def _load_onnxruntime(path: Path, device: torch.device) -> tuple[Detect, Metadata]:
    onnxruntime = require("onnxruntime", f"{path}: running an ONNX file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    available = onnxruntime.get_available_providers()
    providers = ["CPUExecutionProvider"]
    if device.type == "cuda":
        if "CUDAExecutionProvider" not in available:
            raise UserError(
                f"{path}: running an ONNX file on {device} needs onnxruntime-gpu, got an onnxruntime with "
                f"{', '.join(available)}; install it, or choose the device cpu"
            )
        providers.insert(0, "CUDAExecutionProvider")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise UserError(f"{path}: onnxruntime cannot load it: {' '.join(str(error).split())[:300]}") from error
    metadata = Metadata.from_json(session.get_modelmeta().custom_metadata_map.get(KEY), str(path))

    def detect(images: Tensor, sizes: Tensor) -> list[Tensor]:
        arrays = session.run(None, dict(zip(INPUTS, (images.numpy(), sizes.numpy()), strict=True)))
        return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]

    return detect, metadata


def _load_openvino(path: Path, device: torch.device) -> tuple[Detect, Metadata]:
    openvino = require("openvino", f"{path}: running it in OpenVINO")
    onnx = require("onnx", f"{path}: reading an ONNX file")
    properties = {entry.key: entry.value for entry in onnx.load(str(path), load_external_data=False).metadata_props}
    metadata = Metadata.from_json(properties.get(KEY), str(path))
    # OpenVINO's default precision on some CPUs is bfloat16, in which sampling locations are off by pixels.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    except RuntimeError as error:
        raise UserError(f"{path}: OpenVINO cannot load it: {' '.join(str(error).split())[:500]}") from error

    def detect(images: Tensor, sizes: Tensor) -> list[Tensor]:
        outputs = compiled(dict(zip(INPUTS, (images.numpy(), sizes.numpy()), strict=True)))
        return [torch.from_numpy(np.array(outputs[name])) for name in metadata.output_names]

    return detect, metadata


def _load_pt2(path: Path) -> tuple[Detect, Metadata]:
    from flash_internimage.ops import _extension

    _extension.require(str(path))
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: expected a .pt2 file of torch.export or AOTInductor, got something else; export it again")
    with zipfile.ZipFile(path) as archive:
        is_compiled = any("/aotinductor/" in name for name in archive.namelist())
    if is_compiled:
        loaded = torch._inductor.aoti_load_package(str(path))
        return loaded, Metadata.from_json(loaded.get_metadata().get(KEY), str(path))
    files = {METADATA_FILE: ""}
    program = torch.export.load(path, extra_files=files)
    module = without_guards(program)

    def detect(images: Tensor, sizes: Tensor) -> Sequence[Tensor]:  # not the module itself, which refuses train() and eval()
        outputs: Sequence[Tensor] = module(images, sizes)
        return outputs

    return detect, Metadata.from_json(files[METADATA_FILE], str(path))


def without_guards(program: torch.export.ExportedProgram) -> nn.Module:
    """A program as a module that takes all sizes of its range.

    ``torch.export`` guards its programs against feature levels of a single row or column, for which the graph is right as well:
    the verification compares it at the smallest side.
    """
    try:
        return program.module(check_guards=False)
    except TypeError:  # torch before 2.9 adds no guards
        return program.module()
