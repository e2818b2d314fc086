"""The show-batch command: the visualization of a training batch."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from flash_internimage.data.shapes import annotation_file, write_split
from tests.data.formats.written import write_coco, write_yolo
from tests.e2e.conftest import data_overrides

CONFIG = "configs/shapes/mask_rcnn_flash_internimage_nano.py"


@pytest.fixture
def show(flash_internimage, tmp_path):
    write_split(tmp_path / "data", "train", 5)
    write_split(tmp_path / "data", "val", 1)

    def show(*argv):
        folder = tmp_path / "visualizations"
        flags = ["--config-file", CONFIG, "--output", folder]
        done = flash_internimage("show-batch", *flags, *argv, *data_overrides(tmp_path / "data"))
        return done.returncode, done.stdout, done.stderr, folder / "batch.png"

    return show


def test_draws_the_batch(show):
    code, out, _, page = show("dataloader.train.total_batch_size=3")
    assert code == 0
    assert len(re.findall(r" objects?\n", out)) == 3
    assert out.splitlines()[-1].startswith("3 images in the batch")
    drawn = np.array(Image.open(page))
    assert drawn.shape[1] <= 2 * 480 + 8
    assert (drawn[-20:, -20:] == 255).all()  # three of four cells
    assert [path.name for path in page.parent.iterdir()] == ["batch.png"]


def test_automatic_batch_size_is_shown_as_that_of_the_recipe(show):
    code, out, err, _ = show("dataloader.train.total_batch_size=auto", "train.reference_batch_size=3")
    assert code == 0, err
    assert out.splitlines()[-1].startswith("3 images in the batch")


def test_augmentation_is_what_the_config_says(show, tmp_path):
    first = json.loads(annotation_file(tmp_path / "data", "train").read_text())["images"]
    sizes = {f"{image['file_name']}: {image['width'] / image['height']:.1f}" for image in first}
    _, as_in_evaluation, _, _ = show("dataloader.train.total_batch_size=2", "data.augmentation=none")
    for line in as_in_evaluation.splitlines()[:2]:
        name, size = line.split("/")[-1].split(": ")
        width, height = (int(side) for side in size.split(",")[0].split(" x "))
        assert min(width, height) == 128
        assert f"{name}: {width / height:.1f}" in sizes
    _, jittered, _, _ = show("dataloader.train.total_batch_size=2", "data.augmentation=large_scale_jitter")
    assert jittered.splitlines()[:2] != as_in_evaluation.splitlines()[:2]


def test_combined_images_are_drawn(show):
    code, out, _, page = show(
        "data.augmentation=[none,photometric,copy_paste,mosaic,mixup]", "dataloader.train.total_batch_size=3"
    )
    assert code == 0
    assert out.splitlines()[-1].startswith("3 images in the batch")
    assert page.is_file()


def test_masks_are_optional_and_images_can_be_limited(show):
    code, out, _, _ = show("dataloader.train.total_batch_size=4", "dataloader.train.mapper.with_masks=false", "--limit", "1")
    assert code == 0
    assert len(re.findall(r" objects?\n", out)) == 1


def test_mistakes_are_told_and_nothing_written(show):
    code, _, err, page = show("data.augmentation=flop")
    assert code == 1
    assert "data.augmentation must be one of none, flip" in err
    assert not page.parent.exists()


def test_yolo_gives_the_same_batch_as_coco(flash_internimage, tmp_path):
    write_coco(tmp_path / "coco", 6, 1)
    yolo = write_yolo(tmp_path / "coco", tmp_path / "yolo")
    pages = []
    for data in ([f"data.root={tmp_path / 'coco'}"], [f"data.train.yolo={yolo}"]):
        folder = tmp_path / f"batch {len(pages)}"
        flags = ["--config-file", CONFIG, "--output", folder, "dataloader.train.mapper.with_masks=false"]
        done = flash_internimage("show-batch", *flags, *data)
        assert done.returncode == 0
        pages.append(np.array(Image.open(folder / "batch.png")))
    assert (pages[1] == pages[0]).all()
