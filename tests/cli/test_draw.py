"""Detections of an evaluation drawn beside the ground truth."""

import json

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


PREDICTION = {"image_id": 1, "category_id": 3, "bbox": [1, 1, 9, 9], "score": 0.9}
BAD_PREDICTIONS = {
    "numbers": (7, r"[0] should be an object, but is 7"),
    "a box of text": (
        {**PREDICTION, "bbox": "1234"},
        "[0].bbox should be four numbers of pixels, [x, y, width, height]",
    ),
    "a box of three": ({**PREDICTION, "bbox": [1, 2, 3]}, "[0].bbox should be four numbers"),
    "a score of text": ({**PREDICTION, "score": "high"}, "[0].score should be a finite number, but is 'high'"),
    "no score": ({"image_id": 1, "category_id": 3, "bbox": [1, 1, 9, 9]}, '[0] lacks "score"'),
    "an image that is a list": ({**PREDICTION, "image_id": [1]}, "[0].image_id should be a whole number or text, but is [1]"),
    "a mask of text": (
        {**PREDICTION, "segmentation": "abc"},
        "[0].segmentation should be polygons or an RLE mask",
    ),
    "an unknown category": (
        {**PREDICTION, "category_id": 5},
        "a prediction of image 1 has category 5, which",
    ),
    "a mask with fewer pixels than its image": (
        {**PREDICTION, "segmentation": {"size": [96, 96], "counts": [5, 5]}},
        "a prediction of image 1 cannot be drawn",
    ),
    "a polygon far from the image": ({**PREDICTION, "segmentation": [[0, 0, 1e6, 0, 0, 1e6]]}, "image 1 cannot be drawn"),
}


@pytest.mark.parametrize("name", BAD_PREDICTIONS)
def test_predictions_that_cannot_be_drawn_are_one_sentence(flash_internimage, evaluated, tmp_path, name):
    data = evaluated.parent / "data"
    annotations = data / "annotations/instances_val.json"
    prediction, message = BAD_PREDICTIONS[name]
    first = json.loads(annotations.read_text())["images"][0]["id"]
    if isinstance(prediction, dict) and prediction["image_id"] == 1:
        prediction = {**prediction, "image_id": first}
        message = message.replace("image 1 ", f"image {first} ")
    (tmp_path / "p.json").write_text(json.dumps([prediction]))
    arguments = ["--json", annotations, "--images", data / "val", "--predictions", tmp_path / "p.json", "--limit", "1"]
    done = flash_internimage("draw", *arguments, "--output", tmp_path / "drawn")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "error: " in line]
    assert message in line


def test_an_annotation_file_with_errors_is_not_drawn(flash_internimage, evaluated, tmp_path):
    data = evaluated.parent / "data"
    content = json.loads((data / "annotations/instances_val.json").read_text())
    content["images"][0]["file_name"] = "../../secret.png"
    (tmp_path / "a.json").write_text(json.dumps(content))
    (tmp_path / "p.json").write_text("[]")
    arguments = ["--json", tmp_path / "a.json", "--images", data / "val", "--predictions", tmp_path / "p.json"]
    done = flash_internimage("draw", *arguments, "--output", tmp_path / "drawn")
    assert done.returncode == 1
    assert "leads out of the image folder" in done.stderr
