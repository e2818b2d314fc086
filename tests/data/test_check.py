"""Dataset validation: each kind of problem is reported in one sentence with its first case, and valid data gives none."""

import gc
import json
import re
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from flash_internimage.data import check_dataset, require_valid
from flash_internimage.data.annotations import check_dataset_once
from flash_internimage.data.boxes import are_degenerate, is_degenerate
from flash_internimage.data.check import check_contents, missing_files
from flash_internimage.data.validation import validate_contents


def first(content: dict) -> dict:
    return content["annotations"][0]


def test_valid_dataset(write_dataset):
    report = check_dataset(*write_dataset())
    assert (report.errors, report.warnings) == ([], [])
    assert list(report.categories.items()) == [(7, "spoon"), (42, "mug")]  # ascending
    assert report.objects == {7: 1, 42: 1}
    assert (report.num_images, report.num_annotations) == (2, 2)


def test_dataset_without_annotations_is_valid(write_dataset):
    report = check_dataset(*write_dataset(lambda c: c.pop("annotations")))
    assert report.errors == []
    assert report.warnings == [
        f"{report.source}: there are no annotations, so that models can be run on this dataset, but not trained"
    ]
    assert report.objects == {7: 0, 42: 0}


ERRORS = {
    "no categories": (lambda c: c.pop("categories"), "annotations.json: there are no categories"),
    "empty categories": (lambda c: c.update(categories=[]), "there are no categories"),
    "category without a name": (lambda c: c["categories"][0].pop("name"), '1 category lacks "id" or "name"'),
    "duplicate category": (
        lambda c: c["categories"].append({"id": 7, "name": "fork"}),
        "1 category id is that of another category: 7, 'spoon' and 'fork'",
    ),
    "no images": (lambda c: c.update(images=[], annotations=[]), 'there are no images; list them under "images"'),
    "image without size": (lambda c: c["images"][0].pop("width"), '1 image lacks one of "id", "file_name", "height"'),
    "duplicate image id": (lambda c: c["images"][1].update(id=10), r"1 image id is a duplicate: 10 \(2.jpg\)"),
    "missing image": (
        lambda c: c["images"][1].update(file_name="sub/gone.jpg"),
        r"1 image file is missing: .*own data/images/sub/gone.jpg, referenced by image 20",
    ),
    "annotation without image": (lambda c: first(c).pop("image_id"), 'annotation lacks one of "id", "image_id"'),
    "duplicate annotation id": (lambda c: first(c).update(id=2), "annotation id is a duplicate: annotation 2 of image 20"),
    "unknown category": (
        lambda c: first(c).update(category_id=8),
        r"category that the file does not list: annotation 1 of image 10 with category 8; .* 7 \(spoon\), 42 \(mug\)",
    ),
    "ignore": (lambda c: first(c).update(ignore=1), 'has "ignore", which detectron2 refuses'),
    "box of three numbers": (lambda c: first(c).update(bbox=[1, 2, 3]), r"box is not four finite numbers .*: \[1, 2, 3\]"),
    "box with NaN": (lambda c: first(c).update(bbox=[1, 2, float("nan"), 4]), "box is not four finite numbers"),
    "no box": (lambda c: first(c).pop("bbox"), "box is not four finite numbers .*: None"),
    "mask of another size": (
        lambda c: first(c).update(segmentation={"size": [80, 60], "counts": [4800]}),
        r"RLE mask does not match the size of its image: annotation 1 of image 10, .* size \[60, 80\], but has \[80, 60\]",
    ),
    "mask that is a string": (lambda c: first(c).update(segmentation="x"), "neither a list of polygons nor an RLE mask"),
}


@pytest.mark.parametrize(("change", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_error_is_reported(write_dataset, change, message):
    file, images = write_dataset(change)
    report = check_dataset(file, images)
    assert len(report.errors) == 1
    assert str(file) in report.errors[0]
    assert re.search(message, report.errors[0])


SKIPPED = {
    "thin box": (
        lambda c: first(c).update(bbox=[5, 5, 0.5, 10]),
        "1 box is skipped in training.*: annotation 1 of",
    ),
    "box outside the image": (
        lambda c: first(c).update(bbox=[80, 5, 10, 10]),
        "1 box is skipped in training because it is less than one pixel wide or high, or lies outside its image",
    ),
    "image not listed": (lambda c: first(c).update(image_id=99), "1 annotation is skipped because the file does not list"),
    "polygon of two vertices": (
        lambda c: first(c).update(segmentation=[[1, 2, 3, 4]]),
        "1 object is skipped because no polygon has",
    ),
}


@pytest.mark.parametrize(("change", "message"), SKIPPED.values(), ids=SKIPPED.keys())
def test_skipped_annotations_are_counted(write_dataset, change, message):
    report = check_dataset(*write_dataset(change))
    assert report.errors == []
    (warning,) = [warning for warning in report.warnings if "no objects" not in warning]
    assert re.search(message, warning)


LIKELY_MISTAKES = {
    "box beyond the right side": (
        lambda c: first(c).update(bbox=[65, 5, 20, 30]),
        r"1 box extends beyond its image .*: annotation 1 of image 10: \[65, 5, 20, 30\] in an image of 80 x 60 pixels",
    ),
    "box beyond the top side": (lambda c: first(c).update(bbox=[5, -2, 20, 30]), "1 box extends beyond its image"),
    "area of zero": (lambda c: first(c).update(area=0), '1 object has "area": 0.*: annotation 1 of image 10'),
    "duplicate object": (
        lambda c: c["annotations"].append({**first(c), "id": 3}),
        "1 object has the same category and box as another object in its image: annotation 3 of image 10",
    ),
    "file listed twice": (
        lambda c: c["images"].append({**c["images"][0], "id": 30}),
        r"1 image file is listed twice: 1\.jpg, as images 10 and 30",
    ),
    "category without objects": (
        lambda c: c["categories"].append({"id": 9, "name": "fork"}),
        r"1 category has no objects: 9 \(fork\)",
    ),
    "two categories with one name": (
        lambda c: c["categories"][0].update(name="spoon"),
        r"1 category has the same name as another category: 42 and 7 \(spoon\)",
    ),
}


@pytest.mark.parametrize(("change", "message"), LIKELY_MISTAKES.values(), ids=LIKELY_MISTAKES.keys())
def test_likely_mistake_is_a_warning(write_dataset, change, message):
    report = check_dataset(*write_dataset(change))
    assert report.errors == []
    assert len(report.warnings) == 1
    assert re.search(message, report.warnings[0])


def test_the_garbage_collector_is_paused_while_contents_are_validated(write_dataset, monkeypatch):
    enabled = []

    def validate(content, *, in_folder):
        enabled.append(gc.isenabled())
        return validate_contents(content, in_folder=in_folder)

    monkeypatch.setattr("flash_internimage.data.check.validate_contents", validate)
    file, images = write_dataset()
    assert check_contents(json.loads(Path(file).read_text()), str(images), "a dataset").errors == []
    assert enabled == [False]
    assert gc.isenabled()


def test_box_may_exceed_the_image_by_a_rounding_error(write_dataset):
    report = check_dataset(*write_dataset(lambda c: first(c).update(bbox=[60.5, 30.2, 20, 30])))
    assert report.warnings == []


def test_statistics(write_dataset):
    def change(content):
        content["images"].append({"id": 30, "file_name": "2.jpg", "height": 200, "width": 300})
        content["annotations"] += [
            {"id": 3, "image_id": 10, "category_id": 42, "bbox": [0, 0, 32, 32]},  # 1024 square pixels are medium
            {"id": 4, "image_id": 10, "category_id": 42, "bbox": [0, 0, 80, 60], "iscrowd": 1},
        ]

    report = check_dataset(*write_dataset(change))
    assert report.objects == {7: 1, 42: 2}
    assert report.images_with == {7: 1, 42: 1}
    assert report.image_sizes == {(60, 80): 2, (200, 300): 1}
    assert report.objects_by_size == {"small": 2, "medium": 1}
    assert report.num_without_objects == 1


def test_cases_are_counted_and_the_first_is_shown(write_dataset):
    report = check_dataset(*write_dataset(lambda c: [a.update(category_id=5) for a in c["annotations"]]))
    assert re.search("2 annotations have a category .*: the first is annotation 1 of image 10", report.errors[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist; check the path"),
        ('{"images": [', "should be JSON, but it is truncated or malformed"),
        (b"\xff\xfe\x00", "should be JSON"),
        ("[1, 2]", "should contain a JSON object, got a list"),
    ],
    ids=["missing", "truncated", "not text", "a list"],
)
def test_unreadable_annotation_file(tmp_path, content, message):
    file = tmp_path / "a.json"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    (error,) = check_dataset(file, tmp_path).errors
    assert re.search(rf"annotation file {file} {message}", error)


def test_missing_image_folder(write_dataset):
    file, images = write_dataset()
    (error,) = check_dataset(file, images / "typo").errors
    assert re.search("image folder does not exist: .*images/typo; check the path", error)


def test_missing_files_in_subfolders(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").touch()
    (tmp_path / "2.jpg").touch()
    assert missing_files(str(tmp_path), ["a/1.jpg", "2.jpg", "a/2.jpg", "b/1.jpg"]) == ["a/2.jpg", "b/1.jpg"]


def test_changed_file_is_validated_again(write_dataset):
    file, images = write_dataset()
    assert check_dataset_once(str(file), str(images)) is check_dataset_once(str(file), str(images))
    assert check_dataset_once(str(file), str(images)).errors == []
    file.write_text(json.dumps({"images": []}))
    assert check_dataset_once(str(file), str(images)).errors


def test_require_valid_raises_all_kinds(write_dataset):
    def corrupt(content):
        first(content).update(category_id=5)
        content["images"][1]["file_name"] = "gone.jpg"

    file, images = write_dataset(corrupt)
    MetadataCatalog.get("corrupt").set(json_file=str(file), image_root=str(images))
    with pytest.raises(ValueError, match=r"(?s)2 kinds of errors in a dataset:.*does not list.*image file is missing"):
        require_valid("corrupt")
    MetadataCatalog.remove("corrupt")


def test_require_valid_generates_a_missing_dataset(small_shapes):
    require_valid("small_shapes_train")


def test_missing_coco_dataset_is_one_clear_sentence():
    if "coco_2017_val" not in DatasetCatalog.list():
        pytest.fail("detectron2 registers COCO")
    metadata = MetadataCatalog.get("coco_2017_val")
    report = check_dataset(metadata.json_file + ".none", metadata.image_root)
    assert re.search("instances_val2017.json.none does not exist.*DETECTRON2_DATASETS", report.errors[0])


def test_no_image_is_opened(write_dataset):
    file, images = write_dataset()
    for image in images.iterdir():
        image.write_bytes(b"")
    assert check_dataset(file, images).errors == []


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 0, 1, 1), False),
        ((79.5, 59.5, 5, 5), False),
        ((0, 0, 0.99, 5), True),
        ((0, 0, 5, -5), True),
        ((-5, 0, 5, 5), True),
        ((80, 0, 5, 5), True),
        ((0, 60, 5, 5), True),
        ((float("nan"), 0, 5, 5), True),
        ((0, 0, 5, float("nan")), True),
    ],
)
def test_degenerate_boxes(box, expected):
    assert is_degenerate(box, height=60, width=80) is expected
    found = are_degenerate(np.array([box, (1, 1, 2, 2)], dtype=float), np.array([60, 9]), np.array([80, 9]))
    assert found.tolist() == [expected, False]
