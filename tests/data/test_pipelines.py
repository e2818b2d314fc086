"""Pipelines of torchvision and Albumentations: boxes, masks and classes follow the pixels."""

import sys

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall, LazyConfig, instantiate
from omegaconf import OmegaConf
from torchvision.transforms import v2

from flash_internimage.data import AlbumentationsPipeline, TorchvisionPipeline
from flash_internimage.data.stream import seeded
from flash_internimage.engine.saved_config import load_saved_config
from flash_internimage.errors import UserError
from tests.data.painted import check_aligned, paint

BOXES = [(0, 0, 5, 9), (6, 3, 12, 20)]


@pytest.fixture(params=[2, 0], ids=["two objects", "no objects"])
def sample(request):
    return paint(20, 30, BOXES[: request.param], 1)


FLIPPED = {0: [], 2: [[25, 0, 30, 9], [18, 3, 24, 20]]}


def test_torchvision_flip_by_hand(sample):
    flipped = TorchvisionPipeline([v2.RandomHorizontalFlip(p=1.0)])(sample)
    assert (flipped.image == sample.image[:, ::-1]).all()
    assert flipped.instances.gt_boxes.tensor.tolist() == FLIPPED[len(sample.instances)]
    check_aligned(flipped)


@pytest.mark.parametrize("seed", range(5))
def test_torchvision_crop_drops_and_clips_objects(sample, seed):
    with seeded(seed):
        cropped = TorchvisionPipeline([v2.RandomCrop((12, 10)), v2.RandomVerticalFlip()])(sample)
    assert cropped.size == (12, 10)
    check_aligned(cropped)


def test_torchvision_rotation_and_dropped_objects(sample):
    pipeline = TorchvisionPipeline([v2.RandomRotation((90, 90), expand=True), v2.SanitizeBoundingBoxes(min_area=50)])
    rotated = pipeline(sample)
    assert rotated.size == (30, 20)
    assert rotated.instances.gt_classes.tolist() == ([2] if len(sample.instances) else []), "the first has 45 pixels"
    if len(rotated.instances):
        assert rotated.instances.gt_boxes.tensor.tolist() == [[3, 18, 20, 24]]
        assert (rotated.instances.gt_masks.tensor[0].numpy() == (rotated.image[:, :, 0] == 2)).all()


def test_torchvision_without_masks_and_from_a_config(tmp_path):
    cfg = {"pipeline": LazyCall(TorchvisionPipeline)(transforms=[LazyCall(v2.RandomHorizontalFlip)(p=1.0)])}
    LazyConfig.save(OmegaConf.create(cfg, flags={"allow_objects": True}), str(tmp_path / "config.yaml"))
    pipeline = instantiate(load_saved_config(str(tmp_path / "config.yaml")).pipeline)
    flipped = pipeline(paint(20, 30, BOXES, 1, with_masks=False))
    assert flipped.instances.gt_boxes.tensor.tolist() == FLIPPED[2]
    assert not flipped.instances.has("gt_masks")


def test_random_numbers_come_from_the_generator_of_the_sample(sample):
    pipeline = TorchvisionPipeline([v2.ColorJitter(brightness=0.9), v2.RandomCrop((8, 8))])
    images = []
    for seed in (3, 4, 3):
        with seeded(seed):
            images.append(pipeline(sample).image)
    assert (images[0] == images[2]).all()


def test_transforms_that_return_floats_are_refused(sample):
    with pytest.raises(
        UserError, match=r"expected the transforms to return a uint8 image of shape \(3, H, W\), got torch.float32"
    ):
        TorchvisionPipeline([v2.ToDtype(torch.float32)])(sample)


def test_albumentations_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "albumentations", None)
    with pytest.raises(UserError, match="expected the package albumentations, got: .*; pip install albumentations"):
        AlbumentationsPipeline([])


def test_albumentations(sample):
    albumentations = pytest.importorskip("albumentations")
    flipped = AlbumentationsPipeline([albumentations.HorizontalFlip(p=1.0)])(sample)
    expected = np.array(FLIPPED[len(sample.instances)]).reshape(-1, 4)
    np.testing.assert_allclose(flipped.instances.gt_boxes.tensor, expected, rtol=1e-5)
    check_aligned(flipped)
    pipeline = AlbumentationsPipeline([albumentations.RandomCrop(12, 10, p=1.0)])
    images = []
    for seed in (3, 4, 3):
        with seeded(seed):
            cropped = pipeline(sample)
        check_aligned(cropped)
        images.append(cropped.image)
    assert (images[0] == images[2]).all()
    with pytest.raises(UserError, match="expected the transforms to return a uint8 image"):
        AlbumentationsPipeline([albumentations.ToFloat(p=1.0)])(sample)
