"""Validation of annotation files: contents that pass can be loaded, mapped and evaluated; all others are a ``UserError``."""

import copy
import json
import logging
import math
import re
import resource
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from flash_internimage.data import TestMapper as EvaluationMapper
from flash_internimage.data import TrainingMapper, check_dataset, evaluation_dataset_dicts, training_dataset_dicts
from flash_internimage.data.validation import validate_contents
from flash_internimage.errors import UserError
from flash_internimage.evaluation import FastCOCOEvaluator
from flash_internimage.evaluation.report import load
from flash_internimage.evaluation.report_matching import match

NAN, INFINITY = float("nan"), float("inf")


def small_contents() -> dict:
    """An annotation file of one image and one object."""
    return {
        "images": [{"id": 1, "file_name": "1.png", "width": 80, "height": 60}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [5, 5, 20, 20],
                "area": 400,
                "iscrowd": 0,
                "segmentation": [[5, 5, 25, 5, 25, 25]],
            }
        ],
        "categories": [{"id": 1, "name": "a"}],
    }


@pytest.fixture(scope="module", autouse=True)
def _bounded_memory() -> Iterator[None]:
    """Let this module use a few gigabytes more than now, so that hostile contents cannot take the machine down."""
    if sys.platform != "linux":
        yield
        return
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 2**30, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the image of ``small_contents``."""
    folder = tmp_path_factory.mktemp("small")
    Image.new("RGB", (80, 60)).save(folder / "1.png")
    return folder


def write(folder: Path, content: object) -> Path:
    file = folder / "a.json"
    file.write_text(json.dumps(content))
    return file


def use(folder: Path, content: object) -> dict[str, dict[str, float]]:
    """Load, map for training and testing, and evaluate an annotation file, as training and evaluation do.

    The predictions are the objects themselves, or a box in each image without any.
    """
    file = write(folder, content)
    name = "validated"
    register_coco_instances(name, {}, str(file), str(folder))
    try:
        tests = evaluation_dataset_dicts(name)
        evaluator = FastCOCOEvaluator(name, output_dir=str(folder / "out"))
        evaluator.reset()
        for dataset_dict in tests:
            sample = EvaluationMapper([])(dataset_dict)
            instances = Instances((sample["height"], sample["width"]))
            instances.pred_boxes = Boxes(torch.tensor([[5.0, 5.0, 25.0, 25.0]]))
            instances.scores = torch.tensor([0.9])
            instances.pred_classes = torch.tensor([0])
            instances.pred_masks = torch.ones((1, sample["height"], sample["width"]), dtype=torch.bool)
            evaluator.process([sample], [{"instances": instances}])
        results = evaluator.evaluate()
        if "annotations" in content:
            data = load(folder / "out")  # what a report is made of
            match(data.detections, data.objects, len(data.files), min_score=0.5)
        with_masks = all("segmentation" in a for d in tests for a in d["annotations"])
        for dataset_dict in training_dataset_dicts(name, with_masks=with_masks):
            sample = TrainingMapper([], with_masks=with_masks)(dataset_dict)
            assert torch.isfinite(sample["instances"].gt_boxes.tensor).all()
        return results
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def edited(change: Callable[[dict, dict, dict, dict], object]) -> dict:
    """The contents after ``change`` of the file, its annotation, its image and its category."""
    content = small_contents()
    change(content, content["annotations"][0], content["images"][0], content["categories"][0])
    return content


def rle(counts: object, size: object = (60, 80)) -> dict:
    return {"size": list(size), "counts": counts}


def compressed(counts: list[int]) -> str:
    return mask_util.frPyObjects(rle(counts), 60, 80)["counts"].decode()


REFUSED = {
    "polygon with NaN": (lambda c, a, i, k: a.update(segmentation=[[1, 1, NAN, 5, 9, 9]]), "annotation 1 of image 1: nan"),
    "polygon with Infinity": (lambda c, a, i, k: a.update(segmentation=[[1, 1, INFINITY, 5, 9, 9]]), ": inf"),
    "polygon with both infinities": (lambda c, a, i, k: a.update(segmentation=[[1, -INFINITY, INFINITY, 5, 9, 9]]), ": -inf"),
    "polygon with null": (lambda c, a, i, k: a.update(segmentation=[[1, 1, None, 5, 9, 9]]), "finite numbers: .*: None"),
    "polygon with text": (lambda c, a, i, k: a.update(segmentation=[[1, 1, "5", 5, 9, 9]]), "finite numbers: .*: '5'"),
    "polygon of text": (lambda c, a, i, k: a.update(segmentation=[["1"] * 6]), "finite numbers: .*: '1'"),
    "polygon with a list": (lambda c, a, i, k: a.update(segmentation=[[1, 1, [5], 5, 9, 9]]), r": \[5\]"),
    "polygon far away": (
        lambda c, a, i, k: a.update(segmentation=[[1, 1, 1e8, 5, 9, 9]]),
        "100000000.0 in an image of 80 x 60",
    ),
    "polygon with a huge integer": (lambda c, a, i, k: a.update(segmentation=[[1, 1, 10**400, 5, 9.5, 9]]), "finite numbers"),
    "polygon just too far to the right": (lambda c, a, i, k: a.update(segmentation=[[1, 1, 161, 5, 9, 9]]), ": 161 in an"),
    "polygon just too far down": (lambda c, a, i, k: a.update(segmentation=[[1, 1, 9, 121, 9, 9]]), ": 121 in an image"),
    "polygon just too far up": (lambda c, a, i, k: a.update(segmentation=[[1, -61, 9, 5, 9, 9]]), ": -61 in an image"),
    "flat polygon": (lambda c, a, i, k: a.update(segmentation=[5, 5, 25, 5, 25, 25]), "list of lists .*annotation 1 .*25"),
    "segmentation that is a number": (
        lambda c, a, i, k: a.update(segmentation=0),
        "neither a list of polygons nor an RLE mask: .*: 0",
    ),
    "segmentation that is empty text": (
        lambda c, a, i, k: a.update(segmentation=""),
        "neither a list of polygons nor an RLE.*: ''",
    ),
    "box with null": (lambda c, a, i, k: a.update(bbox=[5, 5, None, 20]), r"finite numbers .*: \[5, 5, None, 20\]"),
    "box with text": (lambda c, a, i, k: a.update(bbox=[5, 5, "20", 20]), r"finite numbers .*: \[5, 5, '20', 20\]"),
    "box with Infinity": (lambda c, a, i, k: a.update(bbox=[5, 5, INFINITY, 20]), r"finite numbers .*inf"),
    "box far away": (lambda c, a, i, k: a.update(bbox=[5, 5, 1e8, 20]), "box is farther from its image.*100000000.0"),
    "box just too wide": (lambda c, a, i, k: a.update(bbox=[5, 5, 156, 20]), r"farther .*\[5, 5, 156, 20\] in an image of 80"),
    "box that is empty": (lambda c, a, i, k: a.update(bbox=[]), r"box is not four .*\[\]"),
    "run lengths beyond the image": (lambda c, a, i, k: a.update(segmentation=rle([10, 9000])), "sum to 4800 .*sum to 9010"),
    "run lengths that are too short": (lambda c, a, i, k: a.update(segmentation=rle([10, 90])), "sum to 4800 .*sum to 100"),
    "run lengths that are negative": (lambda c, a, i, k: a.update(segmentation=rle([10, -5, 4795])), "negative, .*-5"),
    "run lengths with a float": (lambda c, a, i, k: a.update(segmentation=rle([10.0, 4790])), "whole numbers, .*10.0"),
    "run lengths with NaN": (lambda c, a, i, k: a.update(segmentation=rle([NAN, 4790])), "whole numbers, .*nan"),
    "run lengths with null": (lambda c, a, i, k: a.update(segmentation=rle([None])), "whole numbers, .*None"),
    "run lengths beyond 32 bits": (lambda c, a, i, k: a.update(segmentation=rle([2**32, 4800])), "sum to 4294972096"),
    "compressed run lengths beyond the image": (
        lambda c, a, i, k: a.update(segmentation=rle(compressed([10, 9000]))),
        "should be 4800 .* or less, but include 9000",
    ),
    "no run lengths": (lambda c, a, i, k: a.update(segmentation=rle([])), "sum to 4800 .*sum to 0"),
    "run lengths that are null": (lambda c, a, i, k: a.update(segmentation=rle(None)), "neither a list nor text: None"),
    "mask without size": (lambda c, a, i, k: a.update(segmentation={"counts": [4800]}), r"size \[60, 80\], but has None"),
    "mask without counts": (lambda c, a, i, k: a.update(segmentation={"size": [60, 80]}), "does not match the size"),
    "compressed mask that is too long": (
        lambda c, a, i, k: a.update(segmentation=rle(compressed([10, 4790]) + "1")),
        "sum to 4800 .*annotation 1|annotation 1 .*sum to 4800 .*but sum to 4801",
    ),
    "compressed mask that is cut off": (lambda c, a, i, k: a.update(segmentation=rle("o")), "not a compressed .*: 'o'"),
    "compressed mask of other text": (lambda c, a, i, k: a.update(segmentation=rle("hé\n")), "not a compressed .*'hé"),
    "compressed mask of huge numbers": (lambda c, a, i, k: a.update(segmentation=rle("o" * 60 + "0")), "not a compressed"),
    "compressed mask that is negative": (lambda c, a, i, k: a.update(segmentation=rle("O")), "negative, but include -1"),
    "compressed mask that is empty": (lambda c, a, i, k: a.update(segmentation=rle("")), "sum to 4800 .*sum to 0"),
    "iscrowd of text": (lambda c, a, i, k: a.update(iscrowd="0"), "\"iscrowd\" is neither 0 nor 1: annotation 1 .*: '0'"),
    "iscrowd of 2": (lambda c, a, i, k: a.update(iscrowd=2), '"iscrowd" is neither 0 nor 1'),
    "area of text": (lambda c, a, i, k: a.update(area="400"), "\"area\" is not a number .*: '400'"),
    "area of null": (lambda c, a, i, k: a.update(area=None), '"area" is not a number .*: None'),
    "negative area": (lambda c, a, i, k: a.update(area=-3), '"area" is not a number .*: -3'),
    "area of NaN": (lambda c, a, i, k: a.update(area=NAN), '"area" is not a number .*: nan'),
    "area beyond COCO's ranges": (lambda c, a, i, k: a.update(area=2e10), '"area" is not a number .*: 20000000000.0'),
    "category name of a number": (lambda c, a, i, k: k.update(name=1), "category name is not text: 1 of category 1"),
    "category name of null": (lambda c, a, i, k: k.update(name=None), "category name is not text: None"),
    "category name that cannot be written": (lambda c, a, i, k: k.update(name="\ud800"), r"name is not text: '\\ud800'"),
    "category id of text": (lambda c, a, i, k: k.update(id="1"), r"not a whole number: '1' \(name 'a'\), .* category_id 1$"),
    "category id of a float": (lambda c, a, i, k: k.update(id=1.0), "not a whole number: 1.0"),
    "category id of true": (lambda c, a, i, k: k.update(id=True), "not a whole number: True"),
    "category id of a list": (lambda c, a, i, k: k.update(id=[1]), r"not a whole number: \[1\]"),
    "annotation's category of text": (lambda c, a, i, k: a.update(category_id="1"), r"category '1'; categories are 1 \(a\)"),
    "annotation's category of a list": (lambda c, a, i, k: a.update(category_id=[1]), r"with category \[1\]"),
    "categories that are null": (lambda c, a, i, k: c.update(categories=None), '"categories" should be a list, but is None'),
    "category that is a number": (lambda c, a, i, k: c.update(categories=[1]), '"categories" is not an object: 1'),
    "width of text": (lambda c, a, i, k: i.update(width="80"), "\"width\" that is not a whole number .*image 1: '80'"),
    "width of null": (lambda c, a, i, k: i.update(width=None), '"width" that is not .*image 1: None'),
    "width of zero": (lambda c, a, i, k: i.update(width=0), '"width" that is not .*image 1: 0'),
    "height of a float": (lambda c, a, i, k: i.update(height=60.0), '"height" that is not .*image 1: 60.0'),
    "enormous size": (lambda c, a, i, k: i.update(width=10**6, height=10**6), r"too large .*\[1000000, 1000000\]"),
    "file name of null": (lambda c, a, i, k: i.update(file_name=None), "file name is not text: image 1: None"),
    "file name above the folder": (
        lambda c, a, i, k: i.update(file_name="a/../../1.png"),
        "file name leads out of the image folder .*: image 1: 'a/../../1.png'",
    ),
    "absolute file name": (
        lambda c, a, i, k: i.update(file_name="/1.png"),
        "file name leads out of the image folder .*: image 1: '/1.png'",
    ),
    "file name of a number": (lambda c, a, i, k: i.update(file_name=1), "file name is not text: image 1: 1"),
    "file name that is empty": (lambda c, a, i, k: i.update(file_name=""), "file name is not text: image 1: ''"),
    "image id of a list": (lambda c, a, i, k: i.update(id=[1]), r"image id is neither .*\[1\] \('1.png'\)"),
    "image id of null": (lambda c, a, i, k: i.update(id=None), "image id is neither .*None"),
    "image ids of two types": (
        lambda c, a, i, k: c["images"].append({**i, "id": "x"}),
        "all whole numbers or all text, but include 1 and 'x'",
    ),
    "annotation's image of text": (lambda c, a, i, k: a.update(image_id="1"), r"image '1', whose image has the id 1$"),
    "annotation's image of a list": (lambda c, a, i, k: a.update(image_id=[1]), r"\"image_id\" is neither .*: \[1\]"),
    "annotation's image of null": (lambda c, a, i, k: a.update(image_id=None), '"image_id" is neither .*: None'),
    "annotation id of a list": (lambda c, a, i, k: a.update(id=[1]), r"annotation id is neither .*: \[1\]"),
    "keypoints with null": (
        lambda c, a, i, k: a.update(keypoints=[1, None, 2]),
        r'value of "keypoints" is not a list of finite numbers: .*: \[1, None, 2\]',
    ),
    "keypoints of text": (lambda c, a, i, k: a.update(keypoints="none"), 'value of "keypoints" is not a list .*: .none.'),
    "keypoints beyond float64": (lambda c, a, i, k: a.update(keypoints=[10**400, 1, 2]), '"keypoints" is not'),
    "ignore of null": (lambda c, a, i, k: a.update(ignore=None), 'has "ignore".*: None'),
    "annotations that are null": (lambda c, a, i, k: c.update(annotations=None), '"annotations" should be a list, but is None'),
    "annotations that are an object": (
        lambda c, a, i, k: c.update(annotations={}),
        '"annotations" should be a list, but is {}',
    ),
    "annotation that is null": (lambda c, a, i, k: c["annotations"].append(None), '"annotations" is not an object: None'),
    "images that are null": (lambda c, a, i, k: c.update(images=None), '"images" should be a list, but is None'),
    "image that is text": (lambda c, a, i, k: c["images"].append("1.png"), "\"images\" is not an object: '1.png'"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_contents_that_cannot_be_used_are_refused_everywhere(folder, change, message):
    content = edited(change)
    report = check_dataset(write(folder, content), folder)
    (error,) = report.errors[:1]
    assert error.startswith(f"annotation file {folder / 'a.json'}: ")
    assert "\n" not in error
    assert re.search(message, error), error
    with pytest.raises(UserError, match=re.escape(str(folder / "a.json"))):
        use(folder, content)


ACCEPTED = {
    "unchanged": lambda c, a, i, k: None,
    "iscrowd of null": lambda c, a, i, k: a.update(iscrowd=None),
    "iscrowd of false": lambda c, a, i, k: a.update(iscrowd=False),
    "no iscrowd and no area": lambda c, a, i, k: (a.pop("iscrowd"), a.pop("area")),
    "keypoints": lambda c, a, i, k: a.update(keypoints=[1, 2, 2]),
    "keypoints of null": lambda c, a, i, k: a.update(keypoints=None),
    "polygon one image size away": lambda c, a, i, k: a.update(segmentation=[[-80, -60, 160, 5, 9, 120]]),
    "polygon of integers and floats": lambda c, a, i, k: a.update(segmentation=[[1, 1.5, 9, 5, 9.25, 9]]),
    "box one image size away": lambda c, a, i, k: a.update(bbox=[-80, -60, 240, 180]),
    "run lengths": lambda c, a, i, k: a.update(segmentation=rle([10, 100, 4690])),
    "run lengths with zeros": lambda c, a, i, k: a.update(segmentation=rle([0, 100, 0, 50, 4650])),
    "compressed mask": lambda c, a, i, k: a.update(segmentation=rle(compressed([10, 100, 4690]))),
    "image id of text": lambda c, a, i, k: (i.update(id="x"), a.update(image_id="x")),
    "annotation id of text": lambda c, a, i, k: a.update(id="x"),
    "huge ids": lambda c, a, i, k: (i.update(id=10**30), a.update(image_id=10**30, id=10**30)),
    "ignore of 0": lambda c, a, i, k: a.update(ignore=0),
}


@pytest.mark.parametrize("change", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_unusual_contents_that_are_valid(folder, change):
    content = edited(change)
    report = check_dataset(write(folder, content), folder)
    assert (report.errors, report.untrainable) == ([], None)
    assert math.isfinite(use(folder, content)["bbox"]["AP"])


def with_crowds(count: int) -> dict:
    """Contents whose last ``count`` of three annotations are crowd regions."""
    content = small_contents()
    content["annotations"] = [{**content["annotations"][0], "id": 5 + n, "bbox": [5, 5, 20 + n, 20]} for n in range(3)]
    for annotation in content["annotations"][3 - count :]:
        annotation["iscrowd"] = 1
    return content


def test_crowd_regions_are_counted_in_checker_and_log(folder, caplog):
    content = with_crowds(2)
    report = check_dataset(write(folder, content), folder)
    (warning,) = report.warnings
    assert warning.endswith(": 2 crowd regions are left out of training; the first is annotation 6 of image 1")
    with caplog.at_level(logging.WARNING):
        use(folder, content)
    assert f"2 crowd regions are left out of training; the first is in image 1 ({folder / '1.png'})" in caplog.text


def test_dataset_of_crowd_regions_alone_cannot_be_trained_on(folder):
    content = with_crowds(3)
    report = check_dataset(write(folder, content), folder)
    assert "all 3 annotations are crowd regions, so that nothing is left to train on" in report.untrainable
    with pytest.raises(UserError, match="no image is left to train on; .*all 3 annotations are crowd regions"):
        use(folder, content)


def test_objects_without_masks_beside_others_are_counted(folder):
    content = with_crowds(0)
    del content["annotations"][1]["segmentation"]
    (warning,) = check_dataset(write(folder, content), folder).warnings
    assert "1 of 3 objects has no mask" in warning
    assert "the first is annotation 6 of image 1" in warning


@pytest.mark.parametrize("as_text", [True, False], ids=["compressed", "uncompressed"])
@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_masks_that_pycocotools_encodes_are_valid_and_decode_to_as_many_pixels(as_text, data):
    height, width = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    bits = data.draw(st.binary(min_size=height * width, max_size=height * width))
    mask = np.asfortranarray((np.frombuffer(bits, np.uint8).reshape(height, width) > 127).astype(np.uint8))
    encoded = mask_util.encode(mask)
    counts = encoded["counts"].decode() if as_text else run_lengths(mask)
    content = small_contents()
    content["images"][0].update(height=height, width=width)
    content["annotations"][0].update(bbox=[0, 0, 1, 1], segmentation={"size": [height, width], "counts": counts})
    assert validate_contents(content).errors.sentences() == []
    content["images"][0].update(height=height + 1)
    content["annotations"][0]["segmentation"]["size"] = [height + 1, width]
    assert len(validate_contents(content).errors.sentences()) == 1


def run_lengths(mask: np.ndarray) -> list[int]:
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=0, append=2)) if len(flat) else np.array([0])
    return np.diff(edges, prepend=0).tolist()


def test_memory_of_the_validation_is_bounded():
    content = small_contents()
    text = compressed([10, 100, 4690])
    content["annotations"] = [
        {**content["annotations"][0], "id": n, "bbox": [5, 5, 20, 20 + n / 1e4], "segmentation": rle(text)}
        for n in range(20000)
    ]
    tracemalloc.start()
    found = validate_contents(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.objects) == 20000
    assert peak < 60e6


# Property: whatever happens to one value of a valid file, it is refused by a UserError or it works.

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-200, 200),
    st.sampled_from([10**9, -(10**9), 2**63, 10**400]),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.one_of(st.integers(-100, 300), st.floats(), st.none(), st.text(max_size=2)), max_size=8),
    st.dictionaries(
        st.sampled_from(["size", "counts", "id"]), st.one_of(st.integers(), st.lists(st.integers(0, 5000))), max_size=2
    ),
    st.just(rle("x")),
)


def places(value: object, path: tuple = ()) -> Iterator[tuple]:
    """The path of each value within lists and dicts."""
    if path:
        yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*path, key))


def mutated(content: dict, path: tuple, value: object, remove: bool) -> dict:
    *parents, last = path
    target = content
    for key in parents:
        target = target[key]
    if remove:
        del target[last]
    else:
        target[last] = value
    return content


def rich_contents() -> dict:
    content = small_contents()
    content["images"].append({"id": 2, "file_name": "1.png", "width": 80, "height": 60})
    first = content["annotations"][0]
    for number, segmentation in enumerate(
        [rle([10, 100, 4690]), rle(compressed([10, 100, 4690])), [[5, 5, 9, 5, 9, 9]]], start=2
    ):
        content["annotations"].append(
            {**first, "id": number, "image_id": 2, "segmentation": segmentation, "keypoints": [1, 2, 2]}
        )
    content["annotations"][3]["iscrowd"] = 1
    return content


PATHS = list(places(rich_contents()))


@given(path=st.sampled_from(PATHS), value=VALUES, remove=st.booleans())
@example(path=("annotations", 0, "bbox", 0), value=False, remove=False)
@example(path=("annotations", 0, "segmentation", 0, 2), value=NAN, remove=False)
@example(path=("annotations", 1, "segmentation", "counts", 1), value=10**9, remove=False)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mutated_file_is_refused_by_a_user_error_or_works(folder, path, value, remove):
    content = mutated(rich_contents(), path, copy.deepcopy(value), remove)
    report = check_dataset(write(folder, content), folder)
    try:
        use(folder, content)
        message = None
    except UserError as error:
        message = str(error)
    if message is None:
        assert not report.errors
    elif not (report.errors or report.untrainable):
        # The size of an image file is compared when it is opened, as the command check-data does. Data without annotations is
        # for testing; the checker warns that it cannot be trained on.
        assert "pixels as annotated" in message or any("there are no annotations" in w for w in report.warnings), message
