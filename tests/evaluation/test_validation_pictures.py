"""Pictures of validation images: which, and that they show the detections."""

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
from flash_internimage.evaluation.validation_pictures import ValidationPictures


@pytest.fixture
def shown(tmp_path):
    """A function that evaluates five images, of which the second has no objects, and returns the storage's pictures."""
    write_split(tmp_path, "val", 5)
    file = annotation_file(tmp_path, "val")
    content = json.loads(file.read_text())
    empty = content["images"][1]["id"]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != empty]
    file.write_text(json.dumps(content))
    register_coco_instances("pictured", {}, str(file), str(tmp_path / "val"))

    def shown(number, score):
        evaluator = FastCOCOEvaluator("pictured")
        pictures = ValidationPictures(evaluator, number)
        pictures.reset()
        for image in content["images"]:
            found = Instances((image["height"], image["width"]))
            found.pred_boxes = Boxes(torch.tensor([[10.0, 10.0, 60.0, 60.0]]))
            found.scores, found.pred_classes = torch.tensor([score]), torch.tensor([1])
            given = {"image_id": image["id"], "file_name": str(tmp_path / "val" / image["file_name"])}
            pictures.process([given], [{"instances": found}])
        with EventStorage(7) as storage:
            assert pictures.evaluate() == {}
        return storage._vis_data

    yield shown
    DatasetCatalog.remove("pictured")
    MetadataCatalog.remove("pictured")


def test_first_images_with_objects(shown):
    pictures = shown(number=2, score=0.9)
    assert [(name, iteration) for name, _, iteration in pictures] == [
        ("validation/000000100001", 7),
        ("validation/000000100003", 7),
    ]
    assert all(picture.shape[0] == 3 and picture.dtype == np.uint8 for _, picture, _ in pictures)


def test_detections_are_on_the_right_and_those_with_low_scores_left_out(shown):
    (_, confident, _), (_, doubtful, _) = shown(number=1, score=0.9)[0], shown(number=1, score=0.4)[0]
    half = confident.shape[2] // 2
    np.testing.assert_array_equal(confident[:, :, :half], doubtful[:, :, :half])
    assert (confident[:, :, half:] != doubtful[:, :, half:]).any()


def test_none_in_other_processes(shown, monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.is_main_process", lambda: False)
    assert shown(number=2, score=0.9) == []
