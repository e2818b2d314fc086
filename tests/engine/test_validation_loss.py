"""Losses on validation images, computed without training on them."""

import copy
import json
import random

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.utils.events import EventStorage
from torch import nn

from flash_internimage import model_zoo
from flash_internimage.data.shapes import annotation_file, write_split
from flash_internimage.engine.seeding import seed_everything
from flash_internimage.engine.stopping import StoppedBySignal, StopRequest
from flash_internimage.engine.validation_loss import validation_loader, validation_losses
from flash_internimage.engine.views import set_views
from flash_internimage.views import ViewOptions
from tests.engine.tiny import TinyDetector, image

CPU = torch.device("cpu")
IMAGES = [[image(index)] for index in (3, 1, 4)]


def losses(model, images=IMAGES, stop=None):
    return validation_losses(model, images, 0, CPU, StopRequest() if stop is None else stop, iteration=7)


@pytest.fixture
def trained():
    """A model after a step of training, so that its running statistics are not the initial ones."""
    model = TinyDetector(dropout=0.5)
    model([image(0), image(5)])
    return model


@torch.no_grad()
def test_losses_are_means_over_images_with_running_statistics_and_without_dropout(trained):
    expected = {"loss_box": 0.0, "loss_cls": 0.0}
    for number, (sample,) in enumerate(IMAGES):
        trained.eval()
        features = trained.body(sample["image"][None]).mean(dim=(2, 3))
        seed_everything(0, 0, number)
        noise = 0.1 * torch.randn(1, 4)
        expected["loss_box"] += float((trained.box_head(features) - sample["target"] - noise).abs().mean()) / 3
        expected["loss_cls"] += float(trained.class_head(features).logsumexp(1).mean()) / 3
    found = losses(trained)
    # Sums of three float32 values near 1: a few units in the last place, 1.2e-7 each.
    assert found == pytest.approx({"total_loss": sum(expected.values()), **expected}, rel=1e-6)


def test_nothing_of_the_run_changes(trained):
    trained.body[1].eval()
    before = copy.deepcopy(trained.state_dict())
    modes = [module.training for module in trained.modules()]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    with EventStorage(0) as storage:
        storage.put_scalar("total_loss", 1.0)
        losses(trained)
        assert set(storage.latest()) == {"total_loss"}
    assert [module.training for module in trained.modules()] == modes
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())
    assert all(parameter.grad is None for parameter in trained.parameters())


def test_losses_of_the_same_weights_are_the_same(trained):
    assert losses(trained) == losses(trained)


def test_modes_are_restored_after_an_error():
    class Broken(nn.Module):
        def forward(self, batch):
            raise RuntimeError("broken")

    model = Broken().eval()
    with pytest.raises(RuntimeError, match="broken"):
        losses(model)
    assert not model.training


def test_signal_stops_it(trained):
    stop = StopRequest()
    stop.signal = 15
    with pytest.raises(StoppedBySignal, match="stopped by SIGTERM after iteration 7"):
        losses(trained, stop=stop)


@pytest.fixture
def nano_config():
    return model_zoo.get_config("mask_rcnn_flash_internimage_nano")


@pytest.fixture
def shapes(tmp_path):
    """Name of a registered dataset with three images, of which the first has no objects."""
    write_split(tmp_path, "val", 3)
    path = annotation_file(tmp_path, "val")
    content = json.loads(path.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != content["images"][0]["id"]]
    path.write_text(json.dumps(content))
    yield register(path, tmp_path / "val")
    forget("validation_loss")


def register(path, images):
    register_coco_instances("validation_loss", {}, str(path), str(images))
    return "validation_loss"


def forget(name):
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_samples_are_those_of_the_evaluation_with_their_objects(nano_config, shapes):
    nano_config.dataloader.test.dataset.names = shapes
    samples = [sample for (sample,) in validation_loader(nano_config)]
    for sample, (plain,) in zip(samples, instantiate(nano_config.dataloader.test), strict=True):
        assert torch.equal(sample["image"], plain["image"])
        assert sample["image_id"] == plain["image_id"]
        assert sample["instances"].has("gt_masks")
        assert sample["instances"].image_size == tuple(plain["image"].shape[1:])
    assert [sample["position"] for sample in samples] == [0, 1, 2]
    assert len(samples[0]["instances"]) == 0
    assert len(samples[2]["instances"]) > 0


def test_samples_are_whole_images_also_if_the_evaluation_uses_tiles(nano_config, shapes):
    nano_config.dataloader.test.dataset.names = shapes
    whole = [sample["image"] for (sample,) in validation_loader(nano_config)]
    set_views(nano_config, ViewOptions(tile=64))
    for (sample,), expected in zip(validation_loader(nano_config), whole, strict=True):
        assert torch.equal(sample["image"], expected)


@pytest.mark.parametrize("name", ["mask_rcnn", "cascade", "dino"])
def test_detectors_compute_them(shapes, name):
    cfg = model_zoo.get_config(f"{name}_flash_internimage_nano")
    cfg.dataloader.test.dataset.names = shapes
    found = losses(instantiate(cfg.model).eval(), validation_loader(cfg))
    assert all(np.isfinite(value) and value >= 0 for value in found.values())
    assert found["total_loss"] == pytest.approx(sum(value for key, value in found.items() if key != "total_loss"))
    assert found["total_loss"] > 0


def test_data_without_annotations_is_one_sentence(nano_config, shapes, tmp_path):
    path = annotation_file(tmp_path, "val")
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": []}))
    nano_config.dataloader.test.dataset.names = shapes
    with pytest.raises(ValueError, match=r"train.val_loss=true: the validation data \(validation_loss\) has no annotations"):
        validation_loader(nano_config)


def test_attributes_of_the_model_are_kept(trained):
    class MovingMean(nn.Module):
        def forward(self, x):
            self.mean = getattr(self, "mean", 100.0) * 0.9 + 0.1 * float(x.mean())
            return x / self.mean

    trained.class_head = nn.Sequential(trained.class_head, MovingMean())
    first = losses(trained)
    assert not hasattr(trained.class_head[1], "mean")
    assert losses(trained, [IMAGES[2], IMAGES[0], IMAGES[1]])["loss_cls"] == pytest.approx(first["loss_cls"], rel=1e-6)
