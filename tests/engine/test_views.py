"""Tiles and test-time augmentation in a config: what else reads the config works as before."""

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from omegaconf import OmegaConf
from PIL import Image

from flash_internimage import model_zoo
from flash_internimage.data import TestMapper
from flash_internimage.data.presets import use_augmentation_preset
from flash_internimage.engine.config import load_config, save_config
from flash_internimage.engine.overrides import apply_overrides
from flash_internimage.engine.views import chosen_views, set_views, views_of, with_views
from flash_internimage.errors import UserError
from flash_internimage.views import ViewOptions

NANO = "mask_rcnn_flash_internimage_nano"
TILES = ViewOptions(tile=80, overlap=0.3, tta=True)


@pytest.fixture
def cfg():
    cfg = model_zoo.get_config(NANO)
    set_views(cfg, TILES)
    return cfg


def test_views_survive_a_saved_config_and_are_replaced(cfg, tmp_path):
    save_config(cfg, str(tmp_path / "config.yaml"))
    saved = load_config(str(tmp_path / "config.yaml"))
    assert views_of(saved) == TILES
    set_views(saved, ViewOptions(tile=64))
    assert views_of(saved) == ViewOptions(tile=64)
    assert views_of(model_zoo.get_config(NANO)) is None


def test_overrides_return_to_whole_images(cfg, tmp_path):
    Image.fromarray(np.zeros((30, 50, 3), np.uint8)).save(tmp_path / "1.png")
    apply_overrides(cfg, ["dataloader.test.mapper.tile=null", "dataloader.test.mapper.tta=false"])
    assert views_of(cfg) is None
    model = torch.nn.Identity()
    assert with_views(cfg, model) is model
    sample = {"file_name": str(tmp_path / "1.png"), "height": 30, "width": 50}
    found = instantiate(cfg.dataloader.test.mapper)(sample)
    expected = instantiate(model_zoo.get_config(NANO).dataloader.test.mapper)(sample)
    assert found.keys() == expected.keys()
    assert torch.equal(found["image"], expected["image"])


@pytest.mark.parametrize(
    ("given", "expected", "logged"),
    [
        pytest.param(ViewOptions(), TILES, ["tiles of 80 pixels with test-time augmentation, from the config"], id="none"),
        pytest.param(ViewOptions(tile=64), ViewOptions(tile=64), [], id="tiles"),
        pytest.param(ViewOptions(tta=True), ViewOptions(tta=True), [], id="test-time augmentation"),
    ],
)
def test_given_views_replace_those_of_the_config(cfg, caplog, given, expected, logged):
    caplog.set_level("INFO")
    assert chosen_views(cfg, given) == expected
    assert [record.getMessage() for record in caplog.records] == logged
    assert chosen_views(model_zoo.get_config(NANO), given) == given


def test_sizes_of_test_images_are_overridden_as_without_views(cfg):
    apply_overrides(cfg, ["dataloader.test.mapper.augmentations.0.short_sides=[96]"])
    assert cfg.dataloader.test.mapper.augmentations[0].short_sides == [96]
    cfg.data.augmentation = "none"
    use_augmentation_preset(cfg)
    assert cfg.dataloader.train.mapper.augmentations[0].short_sides == [96]


def test_a_mapper_that_may_do_more_than_resize_is_refused():
    class Cropping(TestMapper):
        pass

    cfg = model_zoo.get_config(NANO)
    cfg.dataloader.test.mapper = L(Cropping)(augmentations=[])
    before = OmegaConf.to_container(cfg.dataloader.test)
    with pytest.raises(UserError, match="dataloader.test.mapper should be a TestMapper, got Cropping"):
        set_views(cfg, TILES)
    assert OmegaConf.to_container(cfg.dataloader.test) == before
