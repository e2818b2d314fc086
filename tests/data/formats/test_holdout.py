"""Validation split held out of the training data: which images, the record, and what each part contains."""

import pytest

from flash_internimage.data.formats import Contents, draw_validation, hold_out, record_validation, recorded_validation
from flash_internimage.errors import UserError

NAMES = [f"{number}.jpg" for number in range(20)]


def test_draw_depends_on_the_seed_alone():
    drawn = draw_validation(NAMES, 0.25, seed=3)
    assert len(drawn) == 5
    assert set(drawn) < set(NAMES)
    assert draw_validation(NAMES[::-1], 0.25, seed=3) == drawn
    assert draw_validation(NAMES, 0.25, seed=4) != drawn


@pytest.mark.parametrize(("fraction", "number"), [(1e-9, 1), (0.999, 19)])
def test_neither_part_is_empty(fraction, number):
    assert len(draw_validation(NAMES, fraction, seed=0)) == number


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 10, "a tenth"])
def test_fraction_out_of_range(fraction):
    with pytest.raises(UserError, match=r"data.val_fraction: expected a number between 0 and 1, got .*; 0.1 holds out a tenth"):
        draw_validation(NAMES, fraction, seed=0)


def test_one_image_cannot_be_split():
    with pytest.raises(UserError, match="expected at least 2 images to split, got 1"):
        draw_validation(NAMES[:1], 0.5, seed=0)


def test_record(tmp_path):
    file = tmp_path / "split.json"
    assert recorded_validation(file, 0.1, 0) is None
    record_validation(file, NAMES[:2], 0.1, 0)
    assert recorded_validation(file, 0.1, 0) == NAMES[:2]
    assert recorded_validation(file, 0.2, 0) is None
    assert recorded_validation(file, 0.1, 1) is None
    file.write_text("{}")
    with pytest.raises(UserError, match=r"split.json: expected the record of a validation split, .*; delete it to draw"):
        recorded_validation(file, 0.1, 0)


def test_parts_keep_ids_and_categories():
    content = {
        "images": [{"id": id_, "file_name": f"{id_}.jpg"} for id_ in (5, 6, 7)],
        "annotations": [{"id": 10 * id_, "image_id": id_} for id_ in (7, 5)],
        "categories": [{"id": 3, "name": "mug"}],
    }
    train, val = hold_out(Contents(content, "images"), ["6.jpg", "7.jpg", "gone.jpg"])
    assert [image["id"] for image in train.content["images"]] == [5]
    assert train.content["annotations"] == [{"id": 50, "image_id": 5}]
    assert [image["id"] for image in val.content["images"]] == [6, 7]
    assert val.content["annotations"] == [{"id": 70, "image_id": 7}]
    assert train.content["categories"] == val.content["categories"] == content["categories"]
    assert train.image_root == val.image_root == "images"
