"""Named augmentations, as lists of lazy calls that configs and the command line can choose from."""

import copy

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from omegaconf import DictConfig, OmegaConf

from flash_internimage.errors import UserError

from .augmentations import CropRange, OneOf, ResizeToFit, ScaleJitter

MULTI_SCALE_SIDES = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)


def flip() -> list[DictConfig]:
    """Mirrors every second image."""
    return [L(T.RandomFlip)(prob=0.5, horizontal=True)]


def single_scale(short_side: int = 800, long_side: int = 1333) -> list[DictConfig]:
    """The published 1x recipe: one size, and every second image mirrored.

    Args:
        short_side: largest length of the shorter side, in pixels.
        long_side: largest length of the longer side, in pixels.
    """
    return [L(ResizeToFit)(short_sides=[short_side], long_side=long_side), *flip()]


def multi_scale_crop(long_side_before_crop: int = 1333) -> list[DictConfig]:
    """The published 3x and DINO recipe: half of the images at one of eleven sizes, the other half cropped first.

    Args:
        long_side_before_crop: largest length of the longer side, in pixels, at which images are cropped: 1333 in the 3x
            recipes, 4200 for DINO.
    """
    resize = L(ResizeToFit)(short_sides=list(MULTI_SCALE_SIDES), long_side=1333)
    enlarge = L(ResizeToFit)(short_sides=[400, 500, 600], long_side=long_side_before_crop)
    crop = L(CropRange)(low=384, high=600)
    return [*flip(), L(OneOf)(policies=[[resize], [enlarge, crop, copy.deepcopy(resize)]])]


def large_scale_jitter(side: int = 1024, low: float = 0.1, high: float = 2.0) -> list[DictConfig]:
    """ViTDet's recipe: a random size, of which a square window is kept.

    Args:
        side: side of the window in pixels.
        low: smallest size, as a multiple of the one that just fits the window.
        high: largest size, likewise.
    """
    return [
        *flip(),
        L(ScaleJitter)(low=low, high=high, target_side=side),
        L(T.FixedSizeCrop)(crop_size=[side, side], pad=False),
    ]


def use_augmentation_preset(cfg: DictConfig) -> None:
    """Replaces the augmentation of training by the preset that ``cfg.data.augmentation`` names, if it names one.

    - ``none``: images as in evaluation;
    - ``flip``: images as in evaluation, every second one mirrored;
    - ``multi_scale_crop``: the published 3x recipe;
    - ``large_scale_jitter``: ViTDet's recipe.

    Args:
        cfg: a whole config; changed in place.

    Raises:
        UserError: there is no such preset.
    """
    name = OmegaConf.select(cfg, "data.augmentation")
    if name is None:
        return
    as_in_evaluation = copy.deepcopy(list(cfg.dataloader.test.mapper.augmentations))
    presets = {
        "none": as_in_evaluation,
        "flip": as_in_evaluation + flip(),
        "multi_scale_crop": multi_scale_crop(),
        "large_scale_jitter": large_scale_jitter(),
    }
    if name not in presets:
        raise UserError(f"data.augmentation must be one of {', '.join(presets)}, or null, got {name!r}")
    cfg.dataloader.train.mapper.augmentations = presets[name]
