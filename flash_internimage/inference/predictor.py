"""Predictor for images and image files: ``Predictor("mask_rcnn_flash_intern_image_t_fpn_1x_coco")("street.jpg")``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.structures import Instances
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import nn

from flash_internimage.data import Categories, TestMapper
from flash_internimage.engine.distributed import resolve_device
from flash_internimage.engine.exported import mapper_node
from flash_internimage.engine.views import chosen_views
from flash_internimage.errors import UserError
from flash_internimage.export.runtime import ExportedDetector, is_exported
from flash_internimage.images import read_rgb, to_rgb
from flash_internimage.layers import cast_weights
from flash_internimage.precision import autocast_dtype
from flash_internimage.structures import select
from flash_internimage.views import ViewOptions, ViewsDetector, sample_of_views
from flash_internimage.views.batching import detect_in_batches, padding_divisor

from .execution import Compiled
from .loading import config_and_checkpoint, load_model, mapper_of_config
from .prefetch import prefetch_map

ImageLike = np.ndarray | str | os.PathLike[str] | Image.Image
"""(H, W, 3) ``uint8`` array in RGB, path of an image file, or PIL image."""


class Predictor:
    """Detects objects in images with a trained model; images are preprocessed as in evaluation.

    Args:
        config: name of a published detector (``model_zoo.list()``), config file (``.py``, or the ``config.yaml`` of a run),
            or loaded config, which is not modified; ``hf://owner/name`` or a folder that ``flash-internimage push`` wrote; or a
            file that ``flash-internimage export`` wrote (``.onnx``, ``.pt2``).
        checkpoint: checkpoint to load: a file, ``hf://…`` or ``https://…``; or an exported file, for which nothing of the
            config is used but ``train.device``, tiles and test-time augmentation. None: the published checkpoint for a name,
            downloaded on first use, or ``train.init_checkpoint`` of a config.
        min_score: score threshold of detections. A higher one saves the time and memory for their masks.
        device: "cpu", "cuda", …; None: ``train.device`` of the config, by default the GPU if there is one.
        batch_size: images per batch. A batch has only images that are padded to the same size, so that the detections are those
            of the images one by one, up to rounding.
        precision: "fp32", or "bf16" or, on a GPU, "fp16" for autocast, which is faster on GPUs and on CPUs with AMX.
        compile: whether to compile the parts of the model that can be, on the first batch, which takes a minute or more. The
            number of graphs is logged.
        tile: side of square tiles in pixels of the image, for small objects in large images: objects are detected in the tiles,
            too, and merged with those in the whole image. Without ``tile`` and ``tta``, those of the config are used and
            logged, which it has if an evaluation with tiles or test-time augmentation saved it; ``tile: null`` and
            ``tta: false`` in its ``dataloader.test.mapper`` are whole images.
        overlap: smallest overlap of neighboring tiles, as a fraction of their side.
        tta: test-time augmentation: detect at three scales and in flipped images, too, and merge.
        trust_config: whether a ``config.yaml`` may call any function, like a ``.py`` config.

    Attributes:
        class_names: class names stored in the checkpoint; if it has none, COCO's if their number is that of the model,
            otherwise "class 0", "class 1", ….
        categories: the same names, with the category ids of saved detections.
        model: the detector, in evaluation mode; an ``ExportedDetector`` for an exported file.
        views: tiles and test-time augmentation, as given or from the config.

    Raises:
        UserError: the name or the device does not exist, the config or another argument is invalid, or a package that runs an
            exported file is missing.
        CheckpointError: the checkpoint cannot be downloaded or read, or does not match the model.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | DictConfig,
        checkpoint: str | os.PathLike[str] | None = None,
        *,
        min_score: float = 0.0,
        device: str | None = None,
        batch_size: int = 1,
        precision: str = "fp32",
        compile: bool = False,
        tile: int | None = None,
        overlap: float = 0.2,
        tta: bool = False,
        trust_config: bool = False,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"Predictor: batch_size should be 1 or more, got {batch_size}")
        self.min_score = min_score
        self.batch_size = batch_size
        views = ViewOptions(tile, overlap, tta)
        if not isinstance(config, DictConfig) and is_exported(config):
            cfg, weights = OmegaConf.create({"train": {"device": "cpu"}}), os.fspath(config)
        else:
            cfg, weights = config_and_checkpoint(config, checkpoint, trust_config)
        self.views = chosen_views(cfg, views)
        self.device = resolve_device(device or cfg.train.device)
        self._dtype = autocast_dtype(precision, self.device)
        if is_exported(weights):
            if compile or self._dtype is not None:
                raise UserError(
                    f"Predictor: precision and compile need a checkpoint, but {weights} is exported: its graph is fixed"
                )
            exported = ExportedDetector(weights, self.device)
            names = exported.metadata.class_names
            self._mapper: TestMapper = instantiate(mapper_node(exported.metadata))
            self.model: nn.Module = exported.eval()
        else:
            self._mapper = mapper_of_config(cfg)
            model, names = load_model(cfg, weights)
            self.model = model.to(self.device)
            if self._dtype is not None:
                cast_weights(self.model, self._dtype)
            _raise_score_thresholds(self.model, min_score)
        self._compiled = Compiled(self.model) if compile else None
        self.categories = Categories.from_names(names)
        self.class_names: list[str] = self.categories.names

    @property
    def compiled_graphs(self) -> int:
        """Number of graphs compiled so far; 0 without ``compile``, and before the first image."""
        return 0 if self._compiled is None else self._compiled.graphs

    def __call__(self, images: ImageLike | Iterable[ImageLike]) -> dict[str, Any] | list[dict[str, Any]]:
        """Detect objects in an image, or in several images.

        Args:
            images: an image, or an iterable of images. Arrays are (H, W, 3) ``uint8`` in **RGB** (for OpenCV's BGR pass
                ``image[..., ::-1]``), or (N, H, W, 3). The EXIF orientation of files and PIL images is applied.

        Returns:
            For one image ``{"instances": Instances}``, as detectron2's models return it, on the CPU and sorted by descending
            score: ``pred_boxes`` (XYXY in pixels of the input image), ``scores``, ``pred_classes`` (indices into
            ``class_names``) and, if the model predicts masks, ``pred_masks``: a tensor, with tiles or test-time augmentation
            :class:`~flash_internimage.structures.WindowMasks` (a tensor as ``pred_masks.tensor``). For several images a list of
            these dicts.

        Raises:
            OSError: a file cannot be opened.
            UserError: a file is not an image, or an array has another shape or dtype.
        """
        if isinstance(images, np.ndarray) and images.ndim == 4:
            images = list(images)
        if isinstance(images, np.ndarray | str | os.PathLike | Image.Image):
            return next(self.stream([images]))
        return list(self.stream(images))

    def stream(self, images: Iterable[ImageLike]) -> Iterator[dict[str, Any]]:
        """Detect objects in images one after the other, without keeping them in memory; see :meth:`__call__`.

        Files are decoded and resized in threads while the model runs. ``images`` is iterated up to five batches ahead.
        """
        detected = self._in_views(images) if not self.views.is_whole_image else self._in_batches(images)
        for output in detected:
            instances: Instances = output["instances"]
            order = instances.scores.argsort(descending=True, stable=True)
            kept = order[instances.scores[order] >= self.min_score]
            yield {**output, "instances": select(instances, kept).to("cpu")}

    def _in_batches(self, images: Iterable[ImageLike]) -> Iterator[dict[str, Any]]:
        samples = prefetch_map(self._sample, images, ahead=self.batch_size)
        return detect_in_batches(
            lambda batch: self._run(self.model, batch), samples, self.batch_size, padding_divisor(self.model)
        )

    def _in_views(self, images: Iterable[ImageLike]) -> Iterator[dict[str, Any]]:
        detector = ViewsDetector(self.model, self.batch_size, self.min_score)
        for sample in prefetch_map(self._sample_of_views, images, ahead=1, threads=1):
            yield from self._run(detector, [sample])

    def _sample(self, image: ImageLike) -> dict[str, Any]:
        array = _to_array(image)
        return {"image": self._mapper.resized(array), "height": array.shape[0], "width": array.shape[1]}

    def _sample_of_views(self, image: ImageLike) -> dict[str, Any]:
        return sample_of_views(_to_array(image), self.views, self._mapper)

    @torch.no_grad()
    def _run(self, model: nn.Module, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        with torch.autocast(self.device.type, self._dtype, enabled=self._dtype is not None):
            outputs: list[dict[str, Any]] = model(batch)
        if self._compiled is not None:
            self._compiled.check()
        return outputs


def _raise_score_thresholds(model: torch.nn.Module, min_score: float) -> None:
    """Raise the score thresholds inside the model to ``min_score``, so that it does not compute masks for lower scores.

    This does not change the other detections, because NMS and the maximum number of detections go by descending score.
    """
    just_below = min_score - 1e-6  # the model's thresholds are exclusive, min_score is inclusive
    for module in model.modules():
        threshold: Any = getattr(module, "test_score_thresh", None)
        if threshold is not None:
            module.test_score_thresh = max(threshold, just_below)


def _to_array(image: ImageLike) -> np.ndarray:
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if isinstance(image, str | os.PathLike):
        return read_rgb(image)
    if not isinstance(image, np.ndarray):
        raise UserError(f"Predictor: an image should be an array, a path or a PIL image, got {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise UserError(
            f"Predictor: an array should have shape (height, width, 3) and dtype uint8, in RGB, got shape {image.shape} and "
            f"dtype {image.dtype}"
        )
    return image
