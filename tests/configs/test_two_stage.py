"""The configs of two-stage detectors have the neck, normalization, mask heads and poolers of the recipes."""

from __future__ import annotations

import pytest
from omegaconf import DictConfig

from flash_internimage import model_zoo
from flash_internimage.layers import SyncBatchNorm
from tests.configs.published import NAMES, RECIPES

TWO_STAGE = [name for name in NAMES if not name.startswith("dino")]


@pytest.fixture(params=TWO_STAGE)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(name: str) -> DictConfig:
    return model_zoo.get_config(name).model


def stages(heads: DictConfig, one: str, many: str) -> list[DictConfig]:
    """Heads of all stages: several in a cascade, one in Mask R-CNN."""
    return list(heads[many]) if many in heads else [heads[one]]


def test_neck(name: str, model: DictConfig):
    neck, fpn = RECIPES[name]["neck"], model.backbone
    channels = fpn.bottom_up.channels
    assert [channels * 2**stage for stage in range(4)] == neck["in_channels"]
    assert fpn.out_channels == neck["out_channels"]
    assert fpn.norm.keywords == {"eps": neck["norm_eps"]}
    assert len(model.proposal_generator.in_features) == neck["levels"]


def test_normalization_of_the_box_heads(name: str, model: DictConfig):
    for head, published in zip(
        stages(model.roi_heads, "box_head", "box_heads"), RECIPES[name]["roi"]["box_heads"], strict=True
    ):
        assert head.get("conv_norm") == {None: None, "SyncBN": SyncBatchNorm}[published["conv_norm"]]


def test_mask_heads_and_poolers(name: str, model: DictConfig):
    recipe, heads = RECIPES[name]["roi"], model.roi_heads
    mask_heads = stages(heads, "mask_head", "mask_heads")
    assert len(mask_heads) == recipe["mask_head"]["copies"]
    for mask_head in mask_heads:
        # The last entry of conv_dims is the upsampling layer.
        assert list(mask_head.conv_dims) == [recipe["mask_head"]["channels"]] * (recipe["mask_head"]["convs"] + 1)
        assert mask_head.num_classes == recipe["mask_head"]["classes"]
    for pooler, published in [(heads.box_pooler, "box_pooler"), (heads.mask_pooler, "mask_pooler")]:
        assert pooler.output_size == recipe[published]["size"]
        assert list(pooler.strides) == recipe[published]["strides"]
        assert pooler.get("finest_size", 56) == recipe[published]["finest_scale"]
