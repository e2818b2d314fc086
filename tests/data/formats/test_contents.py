"""Conversion to the contents of an annotation file in COCO format."""

from pathlib import Path

import pytest

from flash_internimage.data.formats.contents import LabeledImage, LabeledObject, polygon_area, split_of, to_contents


def test_area_of_a_polygon():
    assert polygon_area([0, 0, 4, 0, 4, 3]) == 6
    assert polygon_area([4, 3, 4, 0, 0, 0]) == 6


@pytest.mark.parametrize(("name", "split"), [("valid", "val"), ("Train", "train"), ("test", "test"), ("images", None)])
def test_names_of_splits(name, split):
    assert split_of(name) == split


def test_images_are_numbered_by_name_and_listed_once():
    labeled = [LabeledObject("mug", [0.0, 0.0, 2.0, 3.0], f"{n}.txt:1") for n in "ab"]
    images = [LabeledImage(Path(f"data/{name}"), (4, 5), [o]) for name, o in zip(("b.jpg", "a.jpg"), labeled, strict=True)]
    found = to_contents([*images, images[0]], {9: "mug"}, Path("./data"), "mine", ids={"mug": 9})
    assert [(image["id"], image["file_name"]) for image in found.content["images"]] == [(1, "a.jpg"), (2, "b.jpg")]
    assert [(a["image_id"], a["category_id"], a["place"]) for a in found.content["annotations"]] == [
        (1, 9, "b.txt:1"),
        (2, 9, "a.txt:1"),
    ]
    assert found.image_root == "data"
