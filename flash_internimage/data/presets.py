"""Augmentation presets, as lists of lazy calls, for configs and for the ``data.augmentation`` override."""

import copy

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from omegaconf import DictConfig, ListConfig, OmegaConf

from flash_internimage.errors import UserError

from .augmentations import CropRange, OneOf, PhotometricDistortion, ResizeToFit, ScaleJitter
from .combinations import CopyPaste, MixUp, Mosaic

MULTI_SCALE_SIDES = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)


def flip() -> list[DictConfig]:
    """Horizontal flip with probability 0.5."""
    return [L(T.RandomFlip)(prob=0.5, horizontal=True)]


def single_scale(short_side: int = 800, long_side: int = 1333) -> list[DictConfig]:
    """Augmentations of the published 1x recipe: single-scale resize and horizontal flip.

    Args:
        short_side: maximum length of the shorter side, in pixels.
        long_side: maximum length of the longer side, in pixels.
    """
    return [L(ResizeToFit)(short_sides=[short_side], long_side=long_side), *flip()]


def multi_scale_crop(long_side_before_crop: int = 1333) -> list[DictConfig]:
    """Augmentations of the published 3x and DINO recipes: flip and multi-scale resize, for half of the images after a crop.

    Args:
        long_side_before_crop: maximum length of the longer side, in pixels, of an image to be cropped: 1333 in the 3x
            recipes, 4200 in DINO's.
    """
    resize = L(ResizeToFit)(short_sides=list(MULTI_SCALE_SIDES), long_side=1333)
    enlarge = L(ResizeToFit)(short_sides=[400, 500, 600], long_side=long_side_before_crop)
    crop = L(CropRange)(low=384, high=600)
    return [*flip(), L(OneOf)(policies=[[resize], [enlarge, crop, copy.deepcopy(resize)]])]


def large_scale_jitter(side: int = 1024, low: float = 0.1, high: float = 2.0) -> list[DictConfig]:
    """Large-scale jitter as in ViTDet: flip, random resize, and a random square crop.

    Args:
        side: side of the crop in pixels.
        low: minimum scale factor; at 1 the image just fits the crop.
        high: maximum scale factor.
    """
    return [
        *flip(),
        L(ScaleJitter)(low=low, high=high, target_side=side),
        L(T.FixedSizeCrop)(crop_size=[side, side], pad=False),
    ]


def use_augmentation_preset(cfg: DictConfig) -> None:
    """Replace the training augmentations by those named in ``cfg.data.augmentation``, one or a list, unless it is null.

    At most one name says how images are resized, flipped and cropped; without one, this remains as in the config:

    - ``none``: resize as in evaluation;
    - ``flip``: resize as in evaluation, and horizontal flip;
    - ``multi_scale_crop``: the published 3x recipe;
    - ``large_scale_jitter``: ViTDet's recipe.

    The other names add to it: ``photometric``, and the combinations ``copy_paste``, ``mosaic`` and ``mixup`` in their order.

    Args:
        cfg: a complete config; modified in place.

    Raises:
        UserError: there is no preset of that name, a name is given twice, or two names contradict each other.
    """
    given = OmegaConf.select(cfg, "data.augmentation")
    if given is None:
        return
    as_in_evaluation = copy.deepcopy(list(cfg.dataloader.test.mapper.augmentations))
    geometric = {
        "none": as_in_evaluation,
        "flip": as_in_evaluation + flip(),
        "multi_scale_crop": multi_scale_crop(),
        "large_scale_jitter": large_scale_jitter(),
    }
    photometric = {
        "photometric": [L(PhotometricDistortion)()],
    }
    combinations = {
        "copy_paste": L(CopyPaste)(),
        "mosaic": L(Mosaic)(),
        "mixup": L(MixUp)(),
    }
    names = list(given) if isinstance(given, ListConfig) else [given]
    known = [*geometric, *photometric, *combinations]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"data.augmentation must be one of {', '.join(known)}, a list of them, or null, got {unknown[0]!r}")
    if len(set(names)) < len(names):
        raise UserError(f"data.augmentation: expected each name once, got {', '.join(names)}; remove the second")
    chosen = [name for name in names if name in geometric]
    if len(chosen) > 1:
        raise UserError(f"data.augmentation: expected at most one of {', '.join(geometric)}, got {' and '.join(chosen)}")
    mapper = cfg.dataloader.train.mapper
    augmentations = geometric[chosen[0]] if chosen else list(mapper.augmentations)
    mapper.augmentations = [*augmentations, *(a for name in names for a in photometric.get(name, []))]
    combined = [combinations[name] for name in names if name in combinations]
    if combined:
        mapper.combinations = combined
