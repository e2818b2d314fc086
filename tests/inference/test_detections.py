"""Detections in COCO's format."""

import torch
from detectron2.structures import Boxes, Instances

from flash_internimage.data import Categories
from flash_internimage.inference.detections import Detections


def test_detections_have_the_category_ids_of_their_classes():
    detections = Detections(Categories({7: "spoon", 42: "mug"}))
    boxes, scores, classes = Boxes(torch.tensor([[1.0, 2.0, 4.0, 8.0]])), torch.tensor([0.5]), torch.tensor([1])
    detections.add("a.jpg", Instances((10, 20), pred_boxes=boxes, scores=scores, pred_classes=classes), drawn="b.jpg")
    content = detections.as_coco()
    assert content["categories"] == [{"id": 7, "name": "spoon"}, {"id": 42, "name": "mug"}]
    (found,) = content["annotations"]
    assert (found["category_id"], found["bbox"], found["area"]) == (42, [1.0, 2.0, 3.0, 6.0], 18.0)
