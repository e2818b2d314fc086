"""Tiles and test-time augmentation in a config: what else reads the config works as before."""

import pytest
from detectron2.config import LazyCall as L
from omegaconf import OmegaConf

from flash_internimage import model_zoo
from flash_internimage.data import TestMapper
from flash_internimage.data.presets import use_augmentation_preset
from flash_internimage.engine.config import load_config, save_config
from flash_internimage.engine.overrides import apply_overrides
from flash_internimage.engine.views import set_views, views_of
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
