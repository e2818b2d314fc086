"""COCO's average precision: bit-exact with pycocotools, and well-defined where pycocotools fails."""

import copy
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from flash_internimage.errors import UserError
from flash_internimage.evaluation.average_precision import average_precision
from tests.evaluation.ellipses import ground_truth, perfect, predictions

TASKS = ("bbox", "segm")


def by_pycocotools(dataset: dict, results: list[dict], task: str, limit: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Compute AP, AP50, AP75, APs, APm, APl and the precision of each category with the official implementation."""
    truth = COCO()
    truth.dataset = copy.deepcopy(dataset)
    truth.createIndex()
    results = copy.deepcopy(results)
    for result in results:
        result.pop("bbox" if task == "segm" else "segmentation")
    evaluation = COCOeval(truth, truth.loadRes(results), task)
    evaluation.params.maxDets = [1, 10, limit]
    evaluation.evaluate()
    evaluation.accumulate()
    if limit == 100:  # pycocotools summarizes no other limit
        evaluation.summarize()
    else:
        evaluation.stats = np.full(6, np.nan)
    return tuple(np.where(v > -1, v * 100, np.nan) for v in (evaluation.stats[:6], evaluation.eval["precision"][..., -1]))


def assert_equals_pycocotools(dataset: dict, results: list[dict]) -> None:
    for task, scores in average_precision(dataset, results, TASKS).items():
        metrics, precision = by_pycocotools(dataset, results, task)
        np.testing.assert_array_equal(list(scores.metrics.values()), metrics)
        np.testing.assert_array_equal(scores.precision, precision[..., 0])
        assert list(scores.by_category) == sorted(category["id"] for category in dataset["categories"])
        for k, found in enumerate(scores.by_category.values()):
            of_all_sizes, *of_each_size = np.moveaxis(precision[:, :, k], 2, 0)
            parts = [of_all_sizes, of_all_sizes[0], of_all_sizes[5], *of_each_size]
            np.testing.assert_allclose(list(found.values()), [part.mean() for part in parts], rtol=0, atol=1e-12)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    images=st.integers(1, 12),
    crowds=st.sampled_from([0, 0.15, 1]),
    digits=st.sampled_from([0, 1, 8]),
)
def test_equals_pycocotools(seed, images, crowds, digits):
    random = np.random.RandomState(seed)
    dataset = ground_truth(random, images, crowds)
    results = predictions(random, dataset, digits)
    if not results or not dataset["annotations"]:  # pycocotools fails
        return
    assert_equals_pycocotools(dataset, results)


def test_equals_pycocotools_beyond_the_maximum_number_of_detections():
    random = np.random.RandomState(4)
    dataset = ground_truth(random, images=2)
    drawn = [r for _ in range(30) for r in predictions(random, dataset)]
    results = [{**r, "category_id": 7, "score": round(random.rand(), 2)} for r in drawn]
    for image in dataset["images"]:
        assert sum(r["image_id"] == image["id"] for r in results) > 100
    assert_equals_pycocotools(dataset, results)


@pytest.mark.parametrize(("rank", "expected"), [(100, 1.0), (101, 0.0)])
def test_at_most_a_hundred_detections_are_evaluated(rank, expected):
    box = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20]}
    dataset = {"images": [{"id": 1, "height": 90, "width": 90}], "annotations": [{**box, "id": 1}], "categories": [{"id": 1}]}
    results = [{**box, "bbox": [50, 50, 20, 20], "score": 1 - i / 1000} for i in range(rank - 1)] + [{**box, "score": 0.1}]
    assert average_precision(dataset, results, ["bbox"])["bbox"].metrics["AP"] == pytest.approx(expected)


def test_equals_pycocotools_with_annotations_of_other_images_and_categories():
    random = np.random.RandomState(6)
    dataset = ground_truth(random, images=6)
    results = predictions(random, dataset)
    stray = dataset["annotations"][0]
    dataset["annotations"] += [{**stray, "id": 1001, "image_id": 1001}, {**stray, "id": 1002, "category_id": 1002}]
    assert_equals_pycocotools(dataset, results)


def test_random_predictions_are_neither_perfect_nor_useless():
    random = np.random.RandomState(0)
    dataset = ground_truth(random, images=40)
    for scores in average_precision(dataset, predictions(random, dataset), TASKS).values():
        assert all(2 < value < 95 for value in scores.metrics.values())
        assert math.isnan(scores.by_category[9]["AP"])


def test_metrics_of_a_task_do_not_depend_on_the_other_tasks():
    random = np.random.RandomState(2)
    dataset = ground_truth(random, images=8)
    results = predictions(random, dataset)
    together = average_precision(dataset, results, ("segm", "bbox"))
    assert list(together) == ["segm", "bbox"]
    for task in TASKS:
        assert together[task].metrics == average_precision(dataset, results, [task])[task].metrics
    assert together["bbox"].metrics != together["segm"].metrics


def test_annotation_with_id_zero_is_evaluated():
    dataset = ground_truth(np.random.RandomState(1), images=3)
    for number, annotation in enumerate(dataset["annotations"]):
        annotation["id"] = number
    assert average_precision(dataset, perfect(dataset), ["bbox"])["bbox"].metrics["AP"] == pytest.approx(100)


@pytest.mark.parametrize("of", [str, lambda id_: id_ - 5], ids=["text", "negative"])
def test_ids_may_have_any_sortable_type(of):
    dataset = ground_truth(np.random.RandomState(1), images=3)
    results = perfect(dataset)
    for entry in [*dataset["annotations"], *results]:
        entry["image_id"] = of(entry["image_id"])
    dataset["images"] = [{**image, "id": of(image["id"])} for image in dataset["images"]]
    assert average_precision(dataset, results, ["segm"])["segm"].metrics["AP"] == pytest.approx(100)


def test_area_and_iscrowd_are_optional():
    dataset = ground_truth(np.random.RandomState(1), images=3, crowds=0)
    results = perfect(dataset)
    for annotation in dataset["annotations"]:
        del annotation["iscrowd"], annotation["area"]
    metrics = average_precision(dataset, results, ["bbox"])["bbox"].metrics
    assert metrics["AP"] == metrics["APm"] == pytest.approx(100)


def test_inputs_are_not_modified():
    random = np.random.RandomState(3)
    dataset = ground_truth(random, images=4)
    results = predictions(random, dataset)
    before = copy.deepcopy((dataset, results))
    average_precision(dataset, results, TASKS)
    assert (dataset, results) == before


def test_nothing_is_printed(capfd):
    random = np.random.RandomState(3)
    dataset = ground_truth(random, images=4)
    average_precision(dataset, predictions(random, dataset), TASKS)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("results", ["some", "none"])
@pytest.mark.parametrize("annotations", [[], None], ids=["an empty list", "no list"])
def test_metrics_without_objects_are_nan(annotations, results):
    random = np.random.RandomState(3)
    dataset = ground_truth(random, images=4)
    results = predictions(random, dataset) if results == "some" else []
    del dataset["annotations"]
    if annotations is not None:
        dataset["annotations"] = annotations
    for scores in average_precision(dataset, results, TASKS).values():
        assert np.isnan(list(scores.metrics.values())).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 1001}, "predictions are of image or category 1001, which the annotations do not have"),
        ({"category_id": 3}, "predictions are of image or category 3, which the annotations do not have"),
        ({"score": math.nan}, r"the score of a prediction of image \d+ should be a number, but is NaN, as are 1 of \d+"),
        ({"segmentation": None}, "predictions have no masks"),
    ],
    ids=["image", "category", "score", "masks"],
)
def test_inconsistent_predictions_are_rejected(change, message):
    dataset = ground_truth(np.random.RandomState(1), images=3)
    results = perfect(dataset)
    results[1].update(change)
    if results[1]["segmentation"] is None:
        del results[1]["segmentation"]
    with pytest.raises(ValueError, match=message):
        average_precision(dataset, results, TASKS)


@pytest.mark.parametrize("limit", [50, 300])
def test_limit_of_detections_equals_that_of_pycocotools(limit):
    random = np.random.RandomState(4)
    dataset = ground_truth(random, images=2)
    drawn = [r for _ in range(30) for r in predictions(random, dataset)]
    results = [{**r, "category_id": 7, "score": round(random.rand(), 2)} for r in drawn]
    for task, scores in average_precision(dataset, results, TASKS, limit).items():
        _, precision = by_pycocotools(dataset, results, task, limit)
        np.testing.assert_array_equal(scores.precision, precision[..., 0])


def test_two_thousand_objects_of_a_class_in_an_image():
    corners = np.random.RandomState(0).permutation(2000)
    boxes = [[float(n % 50 * 20), float(n // 50 * 20), 15.0, 15.0] for n in corners]
    found = [{"image_id": 1, "category_id": 1, "bbox": box} for box in boxes]
    dataset = {
        "images": [{"id": 1, "height": 800, "width": 1000}],
        "annotations": [{**f, "id": n} for n, f in enumerate(found)],
        "categories": [{"id": 1}],
    }
    results = [{**f, "score": 0.9} for f in found]
    # With the first 100 of 2000 found, precision is 1 up to a recall of 0.05: 6 of 101 points.
    assert average_precision(dataset, results, ["bbox"])["bbox"].metrics["AP"] == pytest.approx(100 * 6 / 101)
    assert average_precision(dataset, results, ["bbox"], 2000)["bbox"].metrics["AP"] == pytest.approx(100)


def test_a_mask_with_fewer_pixels_than_its_image_is_refused():
    random = np.random.RandomState(2)
    dataset = ground_truth(random, images=8)
    results = perfect(dataset)
    broken = dataset["annotations"][3]
    height, width = next((i["height"], i["width"]) for i in dataset["images"] if i["id"] == broken["image_id"])
    broken["segmentation"] = {"size": [height, width], "counts": [5, 10]}
    with pytest.raises(UserError, match=f"annotation {broken['id']} of image .* has an RLE mask whose counts should sum to"):
        average_precision(dataset, results, ["segm"])
