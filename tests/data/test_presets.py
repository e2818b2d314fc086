"""Augmentation presets: equal to the published recipes, and selected with one override."""

import numpy as np
import pytest
from detectron2.config import LazyCall, instantiate
from detectron2.data.transforms import AugInput, AugmentationList, RandomFlip
from omegaconf import OmegaConf

from flash_internimage.data import (
    CopyPaste,
    CropRange,
    MixUp,
    Mosaic,
    OneOf,
    PhotometricDistortion,
    ResizeToFit,
    ScaleJitter,
    TestMapper,
    TrainingMapper,
)
from flash_internimage.data.presets import large_scale_jitter, multi_scale_crop, single_scale, use_augmentation_preset


def describe(augmentation) -> dict:
    """Describe an augmentation in the format of ``recipes.json``."""
    if isinstance(augmentation, RandomFlip):
        return {"op": "flip", "direction": "horizontal", "probability": augmentation.prob}
    if isinstance(augmentation, ResizeToFit):
        return {"op": "resize", "short_side": list(augmentation.short_sides), "max_long_side": augmentation.long_side}
    if isinstance(augmentation, CropRange):
        return {"op": "crop", "kind": "absolute_range", "size": [augmentation.low, augmentation.high]}
    assert isinstance(augmentation, OneOf)
    policies = [[describe(step) for step in policy] for policy in augmentation.policies]
    return {"op": "one_of", "probability_each": 1 / len(policies), "policies": policies}


def reduced(step: dict) -> dict:
    """Drop the keys of a step of ``recipes.json`` that belong to the mapper or to MMDetection's implementation."""
    step = {
        key: value
        for key, value in step.items()
        if key not in ("keep_ratio", "choice", "allow_empty", "replaces_earlier_resize_record")
    }
    if "policies" in step:
        step["policies"] = [[reduced(inner) for inner in policy] for policy in step["policies"]]
    return step


@pytest.mark.parametrize(
    ("recipe", "preset"),
    [
        ("mask_rcnn_flash_intern_image_t_fpn_1x_coco", single_scale()),
        ("cascade_flash_intern_image_l_fpn_1x_coco", single_scale()),
        ("mask_rcnn_flash_intern_image_b_fpn_3x_coco", multi_scale_crop()),
        ("cascade_flash_intern_image_l_fpn_3x_coco", multi_scale_crop()),
        ("dino_4scale_flash_internimage_t_1x_coco", multi_scale_crop(4200)),
        ("dino_4scale_flash_internimage_l_1x_coco", multi_scale_crop(4200)),
    ],
)
def test_equals_the_published_recipe(reference, recipe, preset):
    steps = reference.recipes[recipe]["data"]["train"]
    expected = [reduced(step) for step in steps if step["op"] not in ("normalise", "pad")]  # the model does these
    assert [describe(augmentation) for augmentation in instantiate(preset)] == expected


def test_large_scale_jitter_stays_within_its_window():
    augmentation = AugmentationList(instantiate(large_scale_jitter(side=64)))
    sizes = []
    for _ in range(60):
        aug_input = AugInput(np.zeros((50, 100, 3), dtype=np.uint8))
        augmentation(aug_input)
        sizes.append(aug_input.image.shape[:2])
    assert max(map(max, sizes)) == 64
    assert min(map(min, sizes)) < 16


@pytest.fixture
def cfg():
    resize = LazyCall(ResizeToFit)(short_sides=[128], long_side=192)
    return OmegaConf.create(
        {
            "data": {"augmentation": None},
            "dataloader": {
                "train": {"mapper": LazyCall(TrainingMapper)(augmentations=single_scale())},
                "test": {"mapper": LazyCall(TestMapper)(augmentations=[resize])},
            },
        },
        flags={"allow_objects": True},
    )


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        (None, [ResizeToFit, RandomFlip]),
        ("none", [ResizeToFit]),
        ("flip", [ResizeToFit, RandomFlip]),
        ("multi_scale_crop", [RandomFlip, OneOf]),
        ("large_scale_jitter", [RandomFlip, ScaleJitter]),
        ("photometric", [ResizeToFit, RandomFlip, PhotometricDistortion]),
        (["flip", "photometric"], [ResizeToFit, RandomFlip, PhotometricDistortion]),
        (["photometric", "none"], [ResizeToFit, PhotometricDistortion]),
        ("mosaic", [ResizeToFit, RandomFlip]),
    ],
)
def test_preset_is_selected_by_name(cfg, name, kinds):
    cfg.data.augmentation = name
    use_augmentation_preset(cfg)
    chosen = instantiate(cfg.dataloader.train.mapper.augmentations)
    assert [type(augmentation) for augmentation in chosen][: len(kinds)] == kinds
    if name in ("none", "flip"):
        assert chosen[0].short_sides == (128,)


def test_unknown_name(cfg):
    cfg.data.augmentation = "nothing"
    with pytest.raises(ValueError, match="one of none, flip, .*, mosaic, mixup, a list of them, or null, got 'nothing'"):
        use_augmentation_preset(cfg)


def test_combinations_are_in_the_given_order(cfg):
    cfg.data.augmentation = ["mixup", "none", "copy_paste", "mosaic"]
    use_augmentation_preset(cfg)
    mapper = instantiate(cfg.dataloader.train.mapper)
    assert [type(combination) for combination in mapper.combinations] == [MixUp, CopyPaste, Mosaic]
    assert [type(augmentation) for augmentation in mapper.augmentations.augs] == [ResizeToFit]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["flip", "flop"], "must be one of .*, a list of them, or null, got 'flop'"),
        (["mosaic", "mixup", "mosaic"], "expected each name once, got mosaic, mixup, mosaic"),
        (["flip", "mosaic", "none"], "expected at most one of none, flip, .*, got flip and none"),
    ],
)
def test_names_that_contradict_each_other(cfg, names, message):
    cfg.data.augmentation = names
    with pytest.raises(ValueError, match=message):
        use_augmentation_preset(cfg)
