"""Named augmentations: equal to the published recipes, and chosen with one override."""

import numpy as np
import pytest
from detectron2.config import LazyCall, instantiate
from detectron2.data.transforms import AugInput, AugmentationList, RandomFlip
from omegaconf import OmegaConf

from flash_internimage.data import CropRange, OneOf, ResizeToFit, ScaleJitter, TestMapper, TrainingMapper
from flash_internimage.data.presets import large_scale_jitter, multi_scale_crop, single_scale, use_augmentation_preset


def describe(augmentation) -> dict:
    """An augmentation in the words of ``recipes.json``."""
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
    """A step of ``recipes.json`` without what belongs to the mapper, or describes the original's machinery."""
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
    expected = [reduced(step) for step in steps if step["op"] not in ("normalise", "pad")]  # which the model does
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
    ],
)
def test_is_chosen_by_name(cfg, name, kinds):
    cfg.data.augmentation = name
    use_augmentation_preset(cfg)
    chosen = instantiate(cfg.dataloader.train.mapper.augmentations)
    assert [type(augmentation) for augmentation in chosen][: len(kinds)] == kinds
    if name in ("none", "flip"):
        assert chosen[0].short_sides == (128,)


def test_unknown_name(cfg):
    cfg.data.augmentation = "nothing"
    with pytest.raises(ValueError, match="one of none, flip, multi_scale_crop, large_scale_jitter, or null, got 'nothing'"):
        use_augmentation_preset(cfg)
