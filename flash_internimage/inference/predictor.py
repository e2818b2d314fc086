"""A trained detector as a function of images: ``Predictor("mask_rcnn_flash_intern_image_t_fpn_1x_coco")("street.jpg")``."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from detectron2.utils.file_io import PathManager
from omegaconf import DictConfig
from PIL import Image

from flash_internimage import model_zoo
from flash_internimage.checkpoint import Checkpointer, read_checkpoint
from flash_internimage.data import TestMapper, literal_num_classes
from flash_internimage.engine.config import load_config
from flash_internimage.engine.distributed import resolve_device
from flash_internimage.errors import UserError
from flash_internimage.images import read_rgb, to_rgb
from flash_internimage.solver.ema import ema_of_run

ImageLike = np.ndarray | str | os.PathLike[str] | Image.Image
"""(H, W, 3) of ``uint8`` in RGB, the path of a file, or what PIL has opened."""


class Predictor:
    """Finds objects in images, prepared as in evaluation.

    Args:
        config: a published detector's name (``model_zoo.list()``), a config file (``.py``, or the ``config.yaml`` of a run),
            or a config that is loaded already; it is not changed.
        checkpoint: what to load: a file, ``hf://…`` or ``https://…``. None: the published one of a name, fetched on first
            use, or a config's ``train.init_checkpoint``.
        min_score: detections below it are left out. A higher one saves the time and memory of their masks.
        device: "cpu", "cuda", …; None: the config's ``train.device``, by default the GPU where there is one.

    Attributes:
        class_names: name of each class: the checkpoint's, which keeps those it was trained with; else COCO's, if there are
            as many; else "class 0", "class 1", ….
        model: the detector, in evaluation mode.

    Raises:
        UserError: no such name or device, or the config is wrong.
        CheckpointError: the checkpoint cannot be fetched or read, or is not of this model.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | DictConfig,
        checkpoint: str | os.PathLike[str] | None = None,
        *,
        min_score: float = 0.0,
        device: str | None = None,
    ) -> None:
        cfg = _load(config)
        if checkpoint is None:
            named = not isinstance(config, DictConfig) and str(config) in model_zoo.list()
            checkpoint = model_zoo.get_checkpoint(str(config)) if named else cfg.train.init_checkpoint
        checkpoint = os.fspath(checkpoint)
        names = _fit_to_classes_of(checkpoint, cfg.model)
        self.device = resolve_device(device or cfg.train.device)
        self.min_score = min_score
        mapper = instantiate(cfg.dataloader.test.mapper)
        if not isinstance(mapper, TestMapper):
            raise UserError(
                f"Predictor: dataloader.test.mapper should be a TestMapper, which can map an image without a file, got "
                f"{type(mapper).__name__}"
            )
        self._mapper = mapper
        model = instantiate(cfg.model)
        state = Checkpointer(model).load_complete(checkpoint)
        average = ema_of_run(cfg.train.ema, model, state) if "ema" in state else None
        self.model = (model if average is None else average.module).to(self.device).eval()
        _raise_score_thresholds(self.model, min_score)
        num_classes = next((node.num_classes for node in literal_num_classes(cfg.model)), 0)
        self.class_names: list[str] = names if names is not None else _class_names(num_classes)

    def __call__(self, images: ImageLike | Iterable[ImageLike]) -> dict[str, Any] | list[dict[str, Any]]:
        """Detect objects, in one image after the other.

        Args:
            images: one image, or any iterable of them. Arrays are (H, W, 3) of ``uint8`` in **RGB** (OpenCV's are BGR: give
                ``image[..., ::-1]``), or (N, H, W, 3). Files and PIL images are turned upright by their EXIF orientation.

        Returns:
            For one image what detectron2's models give, ``{"instances": Instances}``, on the CPU, by falling score:
            ``pred_boxes`` (XYXY in pixels of the image as given), ``scores``, ``pred_classes`` (index into
            ``class_names``) and, if the model finds masks, ``pred_masks``. For several a list of these.

        Raises:
            OSError: a file cannot be opened.
            UserError: a file is no image, or an array is of another shape or type.
        """
        if isinstance(images, np.ndarray) and images.ndim == 4:
            images = list(images)
        if isinstance(images, np.ndarray | str | os.PathLike | Image.Image):
            return self._detect(_to_array(images))
        return [self._detect(_to_array(image)) for image in images]

    @torch.no_grad()
    def _detect(self, image: np.ndarray) -> dict[str, Any]:
        height, width = image.shape[:2]
        (output,) = self.model([{"image": self._mapper.resized(image), "height": height, "width": width}])
        instances: Instances = output["instances"].to("cpu")
        instances = instances[instances.scores >= self.min_score]
        return {**output, "instances": instances[instances.scores.argsort(descending=True, stable=True)]}


def _load(config: str | os.PathLike[str] | DictConfig) -> DictConfig:
    if isinstance(config, DictConfig):
        return copy.deepcopy(config)
    if Path(config).suffix in (".py", ".yaml", ".yml"):
        return load_config(os.fspath(config), eval_only=True)
    return model_zoo.get_config(os.fspath(config))


def _fit_to_classes_of(checkpoint: str, model: DictConfig) -> list[str] | None:
    """Give a model's config the number of classes that its checkpoint was trained with, and return their names.

    A config is often used with data of one's own, which sets the number when a run starts; the checkpoint knows it.
    """
    if not checkpoint:
        return None  # Checkpointer says what to do
    path = PathManager.get_local_path(checkpoint)
    names = read_checkpoint(path).get("classes")
    if names is None:
        return None
    for node in literal_num_classes(model):
        node.num_classes = len(names)
    return [str(name) for name in names]


def _class_names(number: int) -> list[str]:
    coco: Sequence[str] = MetadataCatalog.get("coco_2017_val").thing_classes
    return list(coco) if number == len(coco) else [f"class {i}" for i in range(number)]


def _raise_score_thresholds(model: torch.nn.Module, min_score: float) -> None:
    """Let the model's parts drop detections below ``min_score`` themselves.

    Suppression and the limit to the best go by falling score, so that this changes nothing above it.
    """
    just_below = min_score - 1e-6  # they keep what is above their thresholds, here the threshold itself counts too
    for module in model.modules():
        if hasattr(module, "test_score_thresh"):
            module.test_score_thresh = max(module.test_score_thresh, just_below)


def _to_array(image: ImageLike) -> np.ndarray:
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if isinstance(image, str | os.PathLike):
        return read_rgb(image)
    if not isinstance(image, np.ndarray):
        raise UserError(f"Predictor: an image should be an array, a path or a PIL image, got a {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise UserError(
            f"Predictor: an array should be of shape (height, width, 3) and dtype uint8, in RGB, got {image.shape} of "
            f"{image.dtype}"
        )
    return image
