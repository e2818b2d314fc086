"""Detections of an evaluation drawn beside the ground truth."""

import numpy as np
from PIL import Image


def test_a_picture_for_each_image(run_tool, evaluated, tmp_path):
    data = evaluated.parent / "data"
    arguments = ["--json", data / "annotations/instances_val.json", "--images", data / "val", "--output", tmp_path / "pictures"]
    predictions = ["--predictions", evaluated / "inference/coco_instances_results.json"]
    arguments += [*predictions, "--limit", "2", "--scale", "1"]
    assert run_tool("draw_detections", *arguments)[0] == 0
    code, out, _ = run_tool("draw_detections", *arguments)  # a second time in one process, where the data is known already
    assert code == 0
    assert out.startswith("2 pictures in ")
    first = sorted((data / "val").iterdir())[0]
    picture = np.array(Image.open(tmp_path / "pictures" / f"{first.stem}.png"))
    image = np.array(Image.open(first))
    assert picture.shape == (image.shape[0], 2 * image.shape[1] + 8, 3)
    assert (picture[:, : image.shape[1]] != image).any()


def test_no_predictions(run_tool, evaluated, tmp_path):
    arguments = ["--dataset", "shapes_val", "--output", tmp_path / "pictures"]
    code, _, err = run_tool("draw_detections", *arguments, "--predictions", tmp_path / "none.json")
    assert code == 1
    assert "none.json: should contain the predictions of an evaluation" in err
    assert not list(tmp_path.iterdir())


def test_unknown_dataset(run_tool, evaluated, tmp_path):
    code, _, err = run_tool(
        "draw_detections", "--dataset", "shape_val", "--predictions", evaluated, "--output", tmp_path / "pictures"
    )
    assert code == 1
    assert "dataset 'shape_val' is not known; did you mean shapes_val" in err
