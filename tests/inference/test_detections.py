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


def test_detections_of_a_collection_are_numbered_after_those_before():
    def collection(names):
        detections = Detections(Categories({7: "spoon"}))
        for name in names:
            boxes, scores = Boxes(torch.tensor([[1.0, 2.0, 4.0, 8.0]] * 2)), torch.tensor([0.5, 0.4])
            found = Instances((10, 20), pred_boxes=boxes, scores=scores, pred_classes=torch.zeros(2, dtype=torch.int64))
            detections.add(name, found, drawn=f"drawn {name}")
        return detections

    first = collection(["a.jpg"])
    first.extend(collection(["b.jpg", "c.jpg"]))
    assert first.as_coco() == collection(["a.jpg", "b.jpg", "c.jpg"]).as_coco()
    assert first.number_of_objects == 6
