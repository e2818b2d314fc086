"""Ids of the classes in the demo's list of detections."""

from detectron2.data import MetadataCatalog


def test_coco_classes_have_their_own_ids(demo_modules):
    names = MetadataCatalog.get("coco_2017_val").thing_classes
    ids = demo_modules["detections"].category_ids(names)
    assert (ids[0], ids[11], ids[-1]) == (1, 13, 90)  # person, stop sign (12 is not used), toothbrush
    assert len(ids) == 80


def test_other_classes_are_counted(demo_modules):
    assert demo_modules["detections"].category_ids(["mug", "spoon"]) == [1, 2]
