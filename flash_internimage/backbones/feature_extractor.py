"""FlashInternImage with the conventions of timm's ``features_only`` models: a list of feature maps, and ``feature_info``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from flash_internimage.errors import UserError

from .flash_internimage import FlashInternImageBase
from .pretrained import load_backbone
from .sizes import IMAGENET_CHECKPOINTS, SIZES


@dataclass(frozen=True)
class FeatureInfo:
    """Channels, strides and names of the features that a model returns, under the names of ``timm.models.FeatureInfo``.

    Attributes:
        out_indices: stage of each feature, from 0 (stride 4) to 3 (stride 32).
    """

    out_indices: tuple[int, ...]
    _channels: tuple[int, ...]

    def channels(self) -> list[int]:
        """Channels of each feature."""
        return list(self._channels)

    def reduction(self) -> list[int]:
        """Stride of each feature, in pixels of the image."""
        return [4 * 2**index for index in self.out_indices]

    def module_name(self) -> list[str]:
        """Module that computes each feature."""
        return [f"levels.{index}" for index in self.out_indices]


class FeatureExtractor(FlashInternImageBase):
    """FlashInternImage that returns a list of feature maps.

    Args:
        out_indices: stages whose features are returned, increasing, from 0 (stride 4) to 3 (stride 32). Later stages are not
            built.
        arguments: those of :class:`~flash_internimage.backbones.flash_internimage.FlashInternImageBase`.

    Raises:
        UserError: out_indices is empty, not increasing, or names a stage that does not exist.
    """

    def __init__(self, out_indices: Sequence[int] = (0, 1, 2, 3), **arguments: Any) -> None:
        stages = len(arguments["depths"])
        if (
            not out_indices
            or any(index not in range(stages) for index in out_indices)
            or [*out_indices] != sorted({*out_indices})
        ):
            raise UserError(
                f"FlashInternImage: out_indices must be increasing integers from 0 to {stages - 1}, got {out_indices!r}"
            )
        super().__init__(**arguments, out_features=[f"res{index + 2}" for index in out_indices])
        channels = tuple(arguments["channels"] * 2**index for index in out_indices)
        self.feature_info = FeatureInfo(tuple(out_indices), channels)

    def forward(self, image: Tensor) -> list[Tensor]:  # type: ignore[override]
        """Compute the features of a batch of images.

        Args:
            image: (N, 3, H, W) images in RGB, normalized with the ImageNet mean and standard deviation.

        Returns:
            (N, C, H / stride, W / stride) for each of ``out_indices``, sizes rounded up, in channels-last memory format.
        """
        return list(super().forward(image).values())


def _create(
    size: str, features_only: bool, pretrained: bool | str | os.PathLike[str], arguments: dict[str, Any]
) -> FeatureExtractor:
    if not features_only:
        raise UserError(
            f"flash_intern_image_{size}: there is no ImageNet classifier, only its features: use features_only=True"
        )
    model = FeatureExtractor(**{**SIZES[size], **arguments})
    if pretrained:
        load_backbone(model, IMAGENET_CHECKPOINTS[size] if pretrained is True else os.fspath(pretrained))
    return model


def flash_intern_image_t(
    features_only: bool = True, pretrained: bool | str | os.PathLike[str] = False, **arguments: Any
) -> FeatureExtractor:
    """Create FlashInternImage-T as a feature extractor.

    Args:
        features_only: True; the classifier of the ImageNet checkpoints is not part of this project.
        pretrained: True for the published ImageNet weights, which are downloaded once, or the path of a checkpoint
            (``hf://…`` too) of the backbone or of a detector that contains it.
        arguments: those of :class:`FeatureExtractor`, such as ``out_indices``, which replace those of the published size.

    Raises:
        UserError: an argument is invalid.
        CheckpointError: the checkpoint cannot be read, or belongs to another backbone.
    """
    return _create("t", features_only, pretrained, arguments)


def flash_intern_image_s(
    features_only: bool = True, pretrained: bool | str | os.PathLike[str] = False, **arguments: Any
) -> FeatureExtractor:
    """Create FlashInternImage-S as a feature extractor; arguments as for :func:`flash_intern_image_t`."""
    return _create("s", features_only, pretrained, arguments)


def flash_intern_image_b(
    features_only: bool = True, pretrained: bool | str | os.PathLike[str] = False, **arguments: Any
) -> FeatureExtractor:
    """Create FlashInternImage-B as a feature extractor; arguments as for :func:`flash_intern_image_t`."""
    return _create("b", features_only, pretrained, arguments)


def flash_intern_image_l(
    features_only: bool = True, pretrained: bool | str | os.PathLike[str] = False, **arguments: Any
) -> FeatureExtractor:
    """Create FlashInternImage-L as a feature extractor; arguments as for :func:`flash_intern_image_t`.

    Its ImageNet weights were trained on ImageNet-22k at 384 x 384, those of the other sizes on ImageNet-1k at 224 x 224.
    """
    return _create("l", features_only, pretrained, arguments)
