"""Dataset dicts: filtering, validation and log messages."""

import copy
import logging
import re
import tracemalloc

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.build import print_instances_class_histogram
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode
from detectron2.utils import logger

from flash_internimage.data import DatasetDicts, evaluation_dataset_dicts, training_dataset_dicts
from flash_internimage.data.categories import Categories
from flash_internimage.data.check import DatasetReport
from flash_internimage.data.dataset_dicts import _log_histogram, filter_training_dataset_dicts
from flash_internimage.errors import UserError


def annotation(box, mode=BoxMode.XYWH_ABS, **keys) -> dict:
    return {"bbox": box, "bbox_mode": mode, "category_id": 0, "iscrowd": 0, **keys}


def dataset_dict(*annotations, height=60, width=80) -> dict:
    return {"file_name": "a.jpg", "image_id": 1, "height": height, "width": width, "annotations": list(annotations)}


def test_crowds_and_degenerate_boxes_are_dropped(caplog):
    good, thin = annotation([5, 5, 10, 10]), annotation([5, 5, 0.5, 10])
    dataset_dicts = [dataset_dict(good, annotation([0, 0, 80, 60], iscrowd=1), thin), dataset_dict(good)]
    before = copy.deepcopy(dataset_dicts)
    with caplog.at_level(logging.WARNING):
        kept = filter_training_dataset_dicts(DatasetDicts.of(dataset_dicts))
    assert dataset_dicts == before
    assert [r["annotations"] for r in kept] == [[good], [good]]
    assert "Dropped 1 box that is less than one pixel wide or high, or lies outside its image" in caplog.text


def test_box_mode_is_respected():
    xyxy = annotation([5, 5, 5.5, 50], mode=BoxMode.XYXY_ABS)  # half a pixel wide
    assert len(filter_training_dataset_dicts(DatasetDicts.of([dataset_dict(xyxy)]))) == 0
    xywh = annotation([5, 5, 5.5, 50])
    assert len(filter_training_dataset_dicts(DatasetDicts.of([dataset_dict(xywh)]))) == 1


@pytest.mark.parametrize(("filter_empty", "count"), [(True, 1), (False, 3)])
def test_images_without_objects(filter_empty, count):
    crowd = annotation([0, 0, 80, 60], iscrowd=1)
    dataset_dicts = [dataset_dict(), dataset_dict(crowd), dataset_dict(annotation([5, 5, 10, 10]))]
    assert len(filter_training_dataset_dicts(DatasetDicts.of(dataset_dicts), filter_empty=filter_empty)) == count


def test_tiny_images_are_dropped():
    box = annotation([1, 1, 10, 10])
    dataset_dicts = [
        dataset_dict(box, height=31, width=80),
        dataset_dict(box, height=80, width=31),
        dataset_dict(box, height=32, width=32),
    ]
    assert [r["height"] for r in filter_training_dataset_dicts(DatasetDicts.of(dataset_dicts))] == [32]


def test_masks_are_required_if_the_model_learns_them():
    dataset_dicts = [dataset_dict(annotation([5, 5, 10, 10]))]
    assert filter_training_dataset_dicts(DatasetDicts.of(dataset_dicts), with_masks=False)
    with pytest.raises(ValueError, match=r"image 1 \(a.jpg\) has no segmentation, but the model learns masks"):
        filter_training_dataset_dicts(DatasetDicts.of(dataset_dicts), with_masks=True)


def test_shapes(small_shapes):
    training = training_dataset_dicts("small_shapes_train", with_masks=True)
    everything = training_dataset_dicts(["small_shapes_train"], filter_empty=False)
    assert 0 < len(training) < len(everything) == 14
    assert all(r["annotation_file"].endswith("instances_train.json") for r in training)
    assert not any(a["iscrowd"] for r in everything for a in r["annotations"])
    assert len(evaluation_dataset_dicts("small_shapes_val")) == 6
    both = training_dataset_dicts(["small_shapes_train", "small_shapes_val"], filter_empty=False)
    assert len(both) == 20


@pytest.fixture
def register(write_dataset):
    names = []

    def call(change) -> str:
        file, images = write_dataset(change)
        names.append("written")
        register_coco_instances("written", {}, str(file), str(images))
        return "written"

    yield call
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_invalid_dataset_is_rejected_before_it_is_loaded(register):
    name = register(lambda c: c["annotations"][0].update(category_id=1))
    for load in (training_dataset_dicts, evaluation_dataset_dicts):
        with pytest.raises(ValueError, match="category that the file does not list"):
            load(name)


def test_no_image_left_is_an_error(register):
    name = register(lambda c: [a.update(bbox=[0, 0, 0, 0]) for a in c["annotations"]])
    with pytest.raises(ValueError, match="written: no image is left to train on"):
        training_dataset_dicts(name)
    assert len(evaluation_dataset_dicts(name)) == 2


def test_error_of_a_missing_file_names_the_image(register):
    name = register(lambda c: c["images"][0].update(file_name="gone.jpg"))
    with pytest.raises(ValueError, match=r"annotations.json: 1 image file is missing: .*gone.jpg, referenced by image 10"):
        training_dataset_dicts(name)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            {"thing_classes": list("abcdefghijkl")},
            r"12 classes \(a, b, c, d, e, f, g, h, i, j, ...\), .* has 2 \(spoon, mug\); ",
        ),
        (
            {"thing_classes": ["spoon", "mug"], "thing_dataset_id_to_contiguous_id": {1: 0, 2: 1}},
            r"\(1: 0, 2: 1\).* \(7: 0, 42: 1\)",
        ),
        ({"thing_dataset_id_to_contiguous_id": {7: 1, 42: 0}}, r"2 pairs of category id and class \(7: 1, 42: 0\), but"),
    ],
    ids=["other classes", "other ids", "other order"],
)
def test_own_data_under_the_name_of_another_dataset(register, metadata, message):
    name = register(lambda content: None)
    MetadataCatalog.get(name).set(**metadata)
    with pytest.raises(UserError, match=f"^dataset written is registered with .*{message}"):
        evaluation_dataset_dicts(name)


def test_same_classes_in_the_metadata(register):
    name = register(lambda content: None)
    MetadataCatalog.get(name).set(thing_classes=("spoon", "mug"))
    assert len(evaluation_dataset_dicts(name)) == 2
    assert MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id == {7: 0, 42: 1}


@pytest.fixture
def logged(caplog):
    """A function that returns the cells of the last table in the log."""
    caplog.set_level(logging.INFO)
    logger._LOG_COUNTER.clear()  # of messages that are logged once

    def cells() -> list[tuple[str, str]]:
        rows = [line for line in re.sub("\x1b\\[\\d+m", "", caplog.messages[-1]).splitlines() if line.startswith("|")]
        values = [value.strip() for row in rows[2:] for value in row.strip("|").split("|")]
        return [pair for pair in zip(values[::2], values[1::2], strict=True) if pair != ("", "")]

    return cells


@pytest.mark.parametrize("number", [1, 2, 3, 7])
def test_histogram_is_that_of_detectron2(logged, number):
    counts = {10 * i: i % 3 for i in range(number)}
    categories = Categories({id_: f"a class with a long name {id_}" if id_ == 20 else f"class {id_}" for id_ in counts})
    objects = [{"category_id": i} for i, count in enumerate(counts.values()) for _ in range(count)]
    print_instances_class_histogram([{"annotations": objects}], categories.names)
    expected = logged()
    _log_histogram(DatasetReport("a.json", "", categories=categories, objects=counts))
    assert logged() == expected + [("total", str(len(objects)))] * (number == 1)


def test_histogram_takes_no_memory_for_each_object(logged):
    report = DatasetReport("a.json", "", categories=Categories({1: "mug"}), objects={1: 10**6})
    tracemalloc.start()
    _log_histogram(report)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()
    assert logged() == [("mug", "1000000"), ("total", "1000000")]
