"""Visualizations of validation images."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from flash_internimage.data.shapes import annotation_file, write_split
from flash_internimage.evaluation import FastCOCOEvaluator
from flash_internimage.evaluation.validation_visualizations import ValidationVisualizer


@pytest.fixture
def shown(tmp_path):
    """A function that evaluates five images, the second without objects, and returns the images in the event storage."""
    write_split(tmp_path, "val", 5)
    file = annotation_file(tmp_path, "val")
    content = json.loads(file.read_text())
    empty = content["images"][1]["id"]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != empty]
    file.write_text(json.dumps(content))
    register_coco_instances("visualized", {}, str(file), str(tmp_path / "val"))

    def shown(number, score):
        evaluator = FastCOCOEvaluator("visualized")
        visualizer = ValidationVisualizer(evaluator, number)
        visualizer.reset()
        for image in content["images"]:
            found = Instances((image["height"], image["width"]))
            found.pred_boxes = Boxes(torch.tensor([[10.0, 10.0, 60.0, 60.0]]))
            found.scores, found.pred_classes = torch.tensor([score]), torch.tensor([1])
            given = {"image_id": image["id"], "file_name": str(tmp_path / "val" / image["file_name"])}
            visualizer.process([given], [{"instances": found}])
        with EventStorage(7) as storage:
            assert visualizer.evaluate() == {}
        return storage._vis_data

    yield shown
    DatasetCatalog.remove("visualized")
    MetadataCatalog.remove("visualized")


def test_first_images_with_objects_are_shown(shown):
    images = shown(number=2, score=0.9)
    assert [(name, iteration) for name, _, iteration in images] == [
        ("validation/000000100001", 7),
        ("validation/000000100003", 7),
    ]
    assert all(image.shape[0] == 3 and image.dtype == np.uint8 for _, image, _ in images)


def test_detections_above_the_threshold_are_drawn_on_the_right(shown):
    (_, confident, _), (_, doubtful, _) = shown(number=1, score=0.9)[0], shown(number=1, score=0.4)[0]
    half = confident.shape[2] // 2
    np.testing.assert_array_equal(confident[:, :, :half], doubtful[:, :, :half])
    assert (confident[:, :, half:] != doubtful[:, :, half:]).any()


def test_other_processes_show_no_images(shown, monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.is_main_process", lambda: False)
    assert shown(number=2, score=0.9) == []
