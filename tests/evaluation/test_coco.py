"""The COCO evaluator: equal to pycocotools on the same predictions, and sensible where there are none."""

import copy
import json
import math

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from flash_internimage.evaluation import FastCOCOEvaluator
from flash_internimage.evaluation.coco import average_precision, index_ground_truth
from flash_internimage.evaluation.record import read_record, scores_of

CATEGORIES = [{"id": 42, "name": "mug"}, {"id": 7, "name": "spoon"}, {"id": 9, "name": "fork"}]
SIDE = 150


def ellipse(random: np.random.RandomState) -> np.ndarray:
    """(SIDE, SIDE) mask of an ellipse of random place and size, small to large in COCO's terms."""
    y, x = np.mgrid[:SIDE, :SIDE]
    centre, radii = random.uniform(20, SIDE - 20, 2), np.exp(random.uniform(np.log(4), np.log(75), 2))
    mask = ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 <= 1
    return np.asfortranarray(mask.astype(np.uint8))


def as_text(rle: dict) -> dict:
    return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}


def ground_truth(random: np.random.RandomState, images: int) -> dict:
    """Content of an annotation file with objects of all sizes, crowd regions and images without objects."""
    annotations = []
    for image_id in range(1, images + 1):
        for _ in range(random.randint(0, 7)):
            rle = mask_util.encode(ellipse(random))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(random.choice([42, 7])),  # there is no fork
                    "bbox": mask_util.toBbox(rle).tolist(),
                    "area": float(mask_util.area(rle)),
                    "iscrowd": int(random.rand() < 0.15),
                    "segmentation": as_text(rle),
                }
            )
    images = [{"id": i, "file_name": f"{i}.jpg", "height": SIDE, "width": SIDE} for i in range(1, images + 1)]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def predictions(random: np.random.RandomState, dataset: dict) -> list[dict]:
    """Objects found more or less well, some twice, some of a wrong class, some that are none; with equal scores."""
    results = []
    for image in dataset["images"]:
        found = [mask_util.decode(a["segmentation"]) for a in dataset["annotations"] if a["image_id"] == image["id"]]
        classes = [a["category_id"] for a in dataset["annotations"] if a["image_id"] == image["id"]]
        for _ in range(random.randint(0, 12)):
            if found and random.rand() < 0.8:
                k = random.randint(len(found))
                mask = np.roll(found[k], random.randint(-4, 5, 2), axis=(0, 1))
                category = classes[k] if random.rand() < 0.8 else 9
            else:
                mask, category = ellipse(random), int(random.choice([42, 7, 9]))
            if not mask.any():
                continue
            rle = mask_util.encode(np.asfortranarray(mask))
            results.append(
                {
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": (mask_util.toBbox(rle) + random.uniform(-1, 1, 4)).tolist(),
                    "score": float(np.round(random.rand(), 2)),
                    "segmentation": as_text(rle),
                }
            )
    return results


def by_pycocotools(dataset: dict, results: list[dict], task: str) -> tuple[list[float], list[float]]:
    """AP, AP50, AP75, APs, APm, APl and the AP of each category as the official implementation computes them."""
    truth = COCO()
    truth.dataset = copy.deepcopy(dataset)
    truth.createIndex()
    results = copy.deepcopy(results)
    for result in results:
        result.pop("bbox" if task == "segm" else "segmentation")
    evaluation = COCOeval(truth, truth.loadRes(results), task)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    per_category = [precision[:, :, k].mean() for k in range(precision.shape[2])]
    return ([100 * v if v > -1 else math.nan for v in values] for values in (evaluation.stats[:6], per_category))


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31))
@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_equals_pycocotools(task, seed):
    random = np.random.RandomState(seed)
    dataset = ground_truth(random, images=12)
    results = predictions(random, dataset)
    if not results or not dataset["annotations"]:
        return
    scores = average_precision(index_ground_truth(dataset), results, task)
    expected, expected_by_category = by_pycocotools(dataset, results, task)
    np.testing.assert_allclose(list(scores.metrics.values()), expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose([scores.by_category[id_]["AP"] for id_ in (7, 9, 42)], expected_by_category, rtol=0, atol=1e-9)
    assert math.isnan(scores.by_category[9]["AP"])


def test_predictions_of_the_test_are_neither_perfect_nor_useless():
    random = np.random.RandomState(0)
    dataset = ground_truth(random, images=40)
    metrics = average_precision(index_ground_truth(dataset), predictions(random, dataset), "segm").metrics
    assert all(2 < value < 95 for value in metrics.values())


def perfect(dataset: dict) -> list[dict]:
    keys = ("image_id", "category_id", "bbox", "segmentation")
    return [{**{key: a[key] for key in keys}, "score": 0.9} for a in dataset["annotations"] if not a["iscrowd"]]


def test_annotation_number_zero_counts_as_any_other():
    dataset = ground_truth(np.random.RandomState(1), images=3)
    for number, annotation in enumerate(dataset["annotations"]):
        annotation["id"] = number
    metrics = average_precision(index_ground_truth(dataset), perfect(dataset), "bbox").metrics
    assert metrics["AP"] == pytest.approx(100)


def test_area_and_crowd_may_be_left_out():
    dataset = ground_truth(np.random.RandomState(1), images=3)
    dataset["annotations"] = [a for a in dataset["annotations"] if not a["iscrowd"]]
    results = perfect(dataset)
    for annotation in dataset["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    metrics = average_precision(index_ground_truth(dataset), results, "bbox").metrics
    assert metrics["AP"] == metrics["APm"] == pytest.approx(100)


def test_inputs_are_not_changed():
    random = np.random.RandomState(3)
    dataset = ground_truth(random, images=4)
    results = predictions(random, dataset)
    before = copy.deepcopy((dataset, results))
    for task in ("bbox", "segm"):
        average_precision(index_ground_truth(dataset), results, task)
    assert (dataset, results) == before


@pytest.fixture
def dataset(tmp_path):
    """A registered dataset, "evaluated", of which the evaluator knows only its annotation file."""
    content = ground_truth(np.random.RandomState(5), images=5)
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps(content))
    register_coco_instances("evaluated", {}, str(file), str(tmp_path))
    yield content
    DatasetCatalog.remove("evaluated")
    MetadataCatalog.remove("evaluated")


def outputs(dataset: dict, image_id: int, with_masks: bool = True) -> dict:
    """What a perfect model gives for an image; classes are 7 -> 0, 9 -> 1, 42 -> 2."""
    objects = [r for r in perfect(dataset) if r["image_id"] == image_id]
    instances = Instances((SIDE, SIDE))
    boxes = torch.tensor([r["bbox"] for r in objects], dtype=torch.float32).reshape(-1, 4)
    instances.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
    instances.scores = torch.full((len(objects),), 0.9)
    instances.pred_classes = torch.tensor([{7: 0, 9: 1, 42: 2}[r["category_id"]] for r in objects], dtype=torch.int64)
    if with_masks:
        masks = [torch.from_numpy(mask_util.decode(r["segmentation"])).bool() for r in objects]
        instances.pred_masks = torch.stack(masks) if masks else torch.zeros((0, SIDE, SIDE), dtype=torch.bool)
    return {"instances": instances}


def run(evaluator: FastCOCOEvaluator, dataset: dict, with_masks: bool = True) -> dict:
    evaluator.reset()
    for image in dataset["images"]:
        evaluator.process([{"image_id": image["id"]}], [outputs(dataset, image["id"], with_masks)])
    return evaluator.evaluate()


def test_perfect_model(dataset, tmp_path):
    evaluator = FastCOCOEvaluator("evaluated", output_dir=str(tmp_path / "out"))
    results = run(evaluator, dataset)
    assert list(results) == ["bbox", "segm"]
    for task in results:
        assert results[task]["AP"] == pytest.approx(100)
        assert results[task]["AP-mug"] == results[task]["AP-spoon"] == pytest.approx(100)
        assert math.isnan(results[task]["AP-fork"])
    written = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert {r["category_id"] for r in written} == {7, 42}
    assert len(written) == len(perfect(dataset))


def test_the_record_holds_the_figures(dataset, tmp_path):
    evaluator = FastCOCOEvaluator("evaluated", output_dir=str(tmp_path / "out" / "inference"))
    results = run(evaluator, dataset)
    record, folder = read_record(tmp_path / "out")
    assert folder == tmp_path / "out" / "inference"
    assert record["num_images"] == 5
    assert [(c["id"], c["name"]) for c in record["categories"]] == [(7, "spoon"), (9, "fork"), (42, "mug")]
    assert sum(c["objects"] for c in record["categories"]) == len(perfect(dataset))
    scores = scores_of(record["tasks"]["segm"])
    assert scores.metrics["AP"] == results["segm"]["AP"]
    assert scores.by_category[42]["AP"] == results["segm"]["AP-mug"]
    assert math.isnan(scores.by_category[9]["AP"])
    assert scores.precision.shape == (10, 101, 3)
    np.testing.assert_allclose(np.nanmean(scores.precision), scores.metrics["AP"], atol=0.01)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"tasks": {"bbox": {}}}'], ids=["none", "broken", "list", "other"])
def test_a_folder_without_a_record_is_told(tmp_path, content):
    if content is not None:
        (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(ValueError, match=r"holds no evaluation.json|should be the record that an evaluation writes"):
        read_record(tmp_path)


def test_boxes_only(dataset):
    assert list(run(FastCOCOEvaluator("evaluated"), dataset, with_masks=False)) == ["bbox"]


def test_masks_are_kept_as_run_lengths(dataset):
    evaluator = FastCOCOEvaluator("evaluated")
    run(evaluator, dataset)
    kept = [r["segmentation"] for prediction in evaluator._predictions for r in prediction["instances"]]
    assert kept
    assert all(isinstance(rle["counts"], str) for rle in kept)


def test_some_images_only(dataset):
    evaluator = FastCOCOEvaluator("evaluated")
    evaluator.process([{"image_id": 2}], [outputs(dataset, 2)])
    assert evaluator.evaluate()["bbox"]["AP"] < 90
    assert evaluator.evaluate(img_ids=[2])["bbox"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize("seen", [True, False], ids=["nothing found", "nothing processed"])
def test_no_predictions_are_an_ap_of_zero(dataset, seen):
    evaluator = FastCOCOEvaluator("evaluated", tasks=["bbox", "segm"])
    if seen:
        evaluator.process([{"image_id": 1}], [{"instances": outputs(dataset, 1)["instances"][[]]}])
    results = evaluator.evaluate()
    assert [results[task]["AP"] for task in ("bbox", "segm")] == [0, 0]


def test_class_that_the_dataset_does_not_have(dataset):
    evaluator = FastCOCOEvaluator("evaluated")
    output = outputs(dataset, 1)
    output["instances"].pred_classes[:] = 5
    evaluator.process([{"image_id": 1}], [output])
    with pytest.raises(ValueError, match="the model predicts class 5, but dataset evaluated has 3 classes"):
        evaluator.evaluate()


def test_predictions_of_all_processes_count(dataset, monkeypatch):
    evaluator = FastCOCOEvaluator("evaluated")
    run(evaluator, dataset)
    everything = evaluator._predictions
    monkeypatch.setattr("detectron2.utils.comm.gather", lambda own, dst: [own, everything[2:]])
    evaluator._predictions = everything[:2]
    assert evaluator.evaluate()["segm"]["AP"] == pytest.approx(100)
    monkeypatch.setattr("detectron2.utils.comm.is_main_process", lambda: False)
    assert evaluator.evaluate() == {}


def test_masks_are_not_scored_without_masks_in_the_data(dataset, tmp_path):
    file = tmp_path / "annotations.json"
    for annotation in dataset["annotations"]:
        annotation.pop("segmentation")
    file.write_text(json.dumps(dataset))
    evaluator = FastCOCOEvaluator("evaluated", tasks=["bbox", "segm"])
    evaluator.process([{"image_id": 1}], [{"instances": outputs(dataset_with_masks(), 1)["instances"]}])
    assert list(evaluator.evaluate()) == ["bbox"]


def dataset_with_masks() -> dict:
    return ground_truth(np.random.RandomState(5), images=5)
