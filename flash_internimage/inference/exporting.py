"""Export of a config and its checkpoint to a file that is verified before it gets its final name."""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from torch import nn

import flash_internimage
from flash_internimage.data import ResizeToFit, TestMapper
from flash_internimage.engine.config import save_config
from flash_internimage.errors import UserError
from flash_internimage.export import exportable_detector
from flash_internimage.export.metadata import Metadata
from flash_internimage.export.operator_check import check_operators
from flash_internimage.export.precision import round_layers
from flash_internimage.export.verification import verify
from flash_internimage.export.writing import check_precision, program_of, require_packages, write
from flash_internimage.family_lookup import detector_family, parameter_rules
from flash_internimage.files import write_atomically
from flash_internimage.path_manager import PathManager
from flash_internimage.precision import DTYPES

from .loading import config_and_checkpoint, load_model, mapper_of_config

_PACKAGES = ("torch", "torchvision", "detectron2", "onnx", "onnxscript", "onnxruntime", "openvino")


def export(
    config: str | os.PathLike[str] | DictConfig,
    checkpoint: str | os.PathLike[str] | None,
    path: str | os.PathLike[str],
    *,
    format: str = "onnx",
    target: str = "onnxruntime",
    size: tuple[int, int] | None = None,
    batch: int = 1,
    precision: str = "fp32",
    max_detections: int | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Metadata:
    """Export a trained detector, and compare the file with the model before it gets its final name.

    Args:
        config, checkpoint: as for :class:`~flash_internimage.inference.Predictor`.
        path: the file to write.
        format: "onnx", "pt2" (``torch.export``) or "aot" (AOTInductor).
        target: "onnxruntime", "openvino" or "tensorrt": the runtime for which an ONNX file is written.
        size: (height, width) of all images, in pixels, padding included; None for any multiple of the model's stride.
        batch: number of images.
        precision: "fp32", "fp16" or "bf16", of the linear layers and convolutions.
        max_detections: rows per image; None for the model's own maximum.
        report: called with each line of the verification.

    Raises:
        VerificationError: the detections of the file are not those of the model; no file is written.
        UserError: the model cannot be exported, an argument does not fit it, or a package is missing.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise UserError(f"export: the folder of {path} should exist, got {path.parent}; create it")
    check_precision(format, precision)
    require_packages(format, target)
    cfg, checkpoint = config_and_checkpoint(config, checkpoint)
    mapper = mapper_of_config(cfg)
    model, names = load_model(cfg, checkpoint)
    detector = exportable_detector(model, max_detections=max_detections)
    short_side, long_side = _sides(mapper)
    pixel_mean, pixel_std = (getattr(model, name).flatten().tolist() for name in ("pixel_mean", "pixel_std"))
    local = PathManager.get_local_path(checkpoint)
    metadata = Metadata(
        format=format,
        target=target if format == "onnx" else "torch",
        family=_title(model),
        class_names=names,
        channel_order=getattr(model, "input_format", None) or "RGB",
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
        short_side=short_side,
        long_side=long_side,
        size_divisibility=detector.divisor,
        smallest_side=detector.divisor if size is not None else detector.smallest_side,
        height=None if size is None else size[0],
        width=None if size is None else size[1],
        batch=batch,
        precision=precision,
        has_masks=False,
        config=_config_text(cfg),
        weights=Path(checkpoint).name,
        weights_sha256=_sha256(local),
        versions=_versions(),
    )
    if format == "onnx":
        report(f"operators for {target}: largest difference {check_operators(target):.1e}")
    program = program_of(detector, metadata)
    if precision != "fp32":
        points = parameter_rules(model.state_dict()).offset_layers
        round_layers(program, DTYPES[precision], lambda name: any(part in name for part in points))
    metadata = Metadata(**{**vars(metadata), "has_masks": len(program.graph_signature.user_outputs) == 5})

    def write_and_verify(temporary: Path) -> None:
        write(program, temporary, metadata)
        for comparison in verify(detector, temporary, "openvino" if metadata.target == "openvino" else None):
            report(str(comparison))

    write_atomically(path, write_and_verify)
    return metadata


def _sides(mapper: TestMapper) -> tuple[int, int]:
    """The short and the long side to which a mapper resizes."""
    augmentations = mapper.augmentations.augs
    if len(augmentations) != 1 or not isinstance(augmentations[0], ResizeToFit) or len(augmentations[0].short_sides) != 1:
        raise UserError(
            "export: dataloader.test.mapper.augmentations should be one ResizeToFit with one short side, so that the file can "
            f"say how to resize images, got {augmentations}"
        )
    return int(augmentations[0].short_sides[0]), int(augmentations[0].long_side)


def _title(model: nn.Module) -> str:
    family = detector_family(model.state_dict())
    return type(model).__name__ if family is None else family.title


def _config_text(cfg: DictConfig) -> str:
    """The section of a config that describes the model. The others have paths of the machine that trained it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        save_config(OmegaConf.masked_copy(cfg, ["model"]), str(path))
        return path.read_text(encoding="utf-8")


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    versions = {"flash_internimage": flash_internimage.__version__, "Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
