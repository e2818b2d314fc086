"""Detections of an evaluation drawn beside the ground truth."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image


def test_a_picture_for_each_image(flash_internimage, evaluated, tmp_path):
    data = evaluated.parent / "data"
    arguments = [
        "--json",
        data / "annotations/instances_val.json",
        "--images",
        data / "val",
        "--output",
        tmp_path / "visualizations",
    ]
    predictions = ["--predictions", evaluated / "inference/coco_instances_results.json"]
    arguments += [*predictions, "--limit", "2", "--scale", "1"]
    assert flash_internimage("draw", *arguments).returncode == 0
    done = flash_internimage("draw", *arguments)  # a second time in one process, where the data is known already
    assert done.returncode == 0
    assert done.stdout.startswith("2 visualizations in ")
    first = sorted((data / "val").iterdir())[0]
    drawn = np.array(Image.open(tmp_path / "visualizations" / f"{first.stem}.png"))
    image = np.array(Image.open(first))
    assert drawn.shape == (image.shape[0], 2 * image.shape[1] + 8, 3)
    assert (drawn[:, : image.shape[1]] != image).any()


def test_no_predictions(flash_internimage, evaluated, tmp_path):
    arguments = ["--dataset", "shapes_val", "--output", tmp_path / "visualizations"]
    done = flash_internimage("draw", *arguments, "--predictions", tmp_path / "none.json")
    assert done.returncode == 1
    assert "none.json: should contain the predictions of an evaluation" in done.stderr
    assert not list(tmp_path.iterdir())


def test_unknown_dataset(flash_internimage, evaluated, tmp_path):
    done = flash_internimage(
        "draw", "--dataset", "shape_val", "--predictions", evaluated, "--output", tmp_path / "visualizations"
    )
    assert done.returncode == 1
    assert "dataset 'shape_val' is not known; did you mean shapes_val" in done.stderr


@pytest.mark.parametrize("data", [[], ["--dataset", "shapes_val", "--json", "a.json", "--images", "a"], ["--json", "a.json"]])
def test_one_dataset_is_needed(flash_internimage, tmp_path, data):
    done = flash_internimage("draw", *data, "--predictions", "p.json", "--output", tmp_path / "visualizations")
    assert done.returncode == 2
    assert "expected either --dataset, or --json and --images" in done.stderr


def test_dataset_without_class_names(flash_internimage, evaluated, tmp_path):
    DatasetCatalog.register("nameless", list)
    try:
        predictions = ["--predictions", evaluated / "inference/coco_instances_results.json"]
        done = flash_internimage("draw", "--dataset", "nameless", *predictions, "--output", tmp_path / "visualizations")
    finally:
        DatasetCatalog.remove("nameless")
    assert done.returncode == 1
    assert "dataset 'nameless': expected thing_classes in its metadata, got none" in done.stderr
