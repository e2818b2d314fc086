"""Category ids of detections."""

from detectron2.data import MetadataCatalog

from flash_internimage.inference.detections import category_ids


def test_coco_classes_have_coco_ids():
    names = MetadataCatalog.get("coco_2017_val").thing_classes
    ids = category_ids(names)
    assert (ids[0], ids[11], ids[-1]) == (1, 13, 90)  # person, stop sign (12 is not used), toothbrush
    assert len(ids) == 80


def test_other_classes_have_consecutive_ids():
    assert category_ids(["mug", "spoon"]) == [1, 2]
