"""The COCO evaluator: its metrics, and the files that it writes."""

import json
import math

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances

from flash_internimage.errors import UserError
from flash_internimage.evaluation import FastCOCOEvaluator
from flash_internimage.evaluation.saved import read_evaluation, scores_of
from tests.evaluation.ellipses import SIDE, ground_truth, perfect


@pytest.fixture
def dataset(tmp_path):
    """A registered dataset, "evaluated", that consists of an annotation file without images."""
    content = ground_truth(np.random.RandomState(5), images=5)
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps(content))
    register_coco_instances("evaluated", {}, str(file), str(tmp_path))
    yield content
    DatasetCatalog.remove("evaluated")
    MetadataCatalog.remove("evaluated")


def image_with_objects(dataset: dict) -> int:
    """Return the id of an image with objects."""
    return next(a["image_id"] for a in dataset["annotations"] if not a["iscrowd"])


def outputs(dataset: dict, image_id: int, with_masks: bool = True) -> dict:
    """Return the outputs of a perfect model for an image; category ids map to classes as 7 -> 0, 9 -> 1, 42 -> 2."""
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


def test_saved_evaluation_contains_the_metrics(dataset, tmp_path):
    evaluator = FastCOCOEvaluator("evaluated", output_dir=str(tmp_path / "out" / "inference"))
    results = run(evaluator, dataset)
    saved, folder = read_evaluation(tmp_path / "out")
    assert folder == tmp_path / "out" / "inference"
    assert saved["num_images"] == 5
    assert [(c["id"], c["name"]) for c in saved["categories"]] == [(7, "spoon"), (9, "fork"), (42, "mug")]
    assert sum(c["objects"] for c in saved["categories"]) == len(perfect(dataset))
    scores = scores_of(saved["tasks"]["segm"])
    assert scores.metrics["AP"] == results["segm"]["AP"]
    assert scores.by_category[42]["AP"] == results["segm"]["AP-mug"]
    assert math.isnan(scores.by_category[9]["AP"])
    assert scores.precision.shape == (10, 101, 3)
    np.testing.assert_allclose(np.nanmean(scores.precision), scores.metrics["AP"], atol=0.01)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"tasks": {"bbox": {}}}'], ids=["none", "malformed", "list", "other"])
def test_folder_without_an_evaluation_is_an_error(tmp_path, content):
    if content is not None:
        (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(ValueError, match=r"holds no evaluation.json|should be a file written by an evaluation"):
        read_evaluation(tmp_path)


def test_boxes_only(dataset):
    assert list(run(FastCOCOEvaluator("evaluated"), dataset, with_masks=False)) == ["bbox"]


def test_masks_are_stored_as_rle(dataset):
    evaluator = FastCOCOEvaluator("evaluated")
    run(evaluator, dataset)
    stored = [r["segmentation"] for prediction in evaluator._predictions for r in prediction["instances"]]
    assert stored
    assert all(isinstance(rle["counts"], str) for rle in stored)


def test_evaluation_of_some_images(dataset):
    evaluator = FastCOCOEvaluator("evaluated")
    some = image_with_objects(dataset)
    evaluator.process([{"image_id": some}], [outputs(dataset, some)])
    assert evaluator.evaluate()["bbox"]["AP"] < 90
    assert evaluator.evaluate(img_ids=[some])["bbox"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize("seen", [True, False], ids=["nothing detected", "nothing processed"])
def test_ap_without_predictions_is_zero(dataset, seen):
    evaluator = FastCOCOEvaluator("evaluated", tasks=["bbox", "segm"])
    if seen:
        some = image_with_objects(dataset)
        evaluator.process([{"image_id": some}], [{"instances": outputs(dataset, some)["instances"][[]]}])
    results = evaluator.evaluate()
    assert [results[task]["AP"] for task in ("bbox", "segm")] == [0, 0]


def test_class_that_the_dataset_does_not_have_is_an_error(dataset):
    evaluator = FastCOCOEvaluator("evaluated")
    some = image_with_objects(dataset)
    output = outputs(dataset, some)
    output["instances"].pred_classes[:] = 5
    evaluator.process([{"image_id": some}], [output])
    with pytest.raises(ValueError, match="the model predicts class 5, but dataset evaluated has 3 classes"):
        evaluator.evaluate()


def test_predictions_of_all_processes_are_gathered(dataset, monkeypatch):
    evaluator = FastCOCOEvaluator("evaluated")
    run(evaluator, dataset)
    everything = evaluator._predictions
    monkeypatch.setattr("detectron2.utils.comm.gather", lambda own, dst: [own, everything[2:]])
    evaluator._predictions = everything[:2]
    assert evaluator.evaluate()["segm"]["AP"] == pytest.approx(100)
    monkeypatch.setattr("detectron2.utils.comm.is_main_process", lambda: False)
    assert evaluator.evaluate() == {}


def test_mask_ap_is_skipped_without_masks_in_the_annotations(dataset, tmp_path):
    file = tmp_path / "annotations.json"
    for annotation in dataset["annotations"]:
        annotation.pop("segmentation")
    file.write_text(json.dumps(dataset))
    evaluator = FastCOCOEvaluator("evaluated", tasks=["bbox", "segm"])
    some = image_with_objects(dataset)
    evaluator.process([{"image_id": some}], [{"instances": outputs(dataset_with_masks(), some)["instances"]}])
    assert list(evaluator.evaluate()) == ["bbox"]


def dataset_with_masks() -> dict:
    return ground_truth(np.random.RandomState(5), images=5)


@pytest.mark.parametrize("annotations", [None, []], ids=["no list", "empty list"])
@pytest.mark.parametrize("folder", ["out", None], ids=["folder", "no folder"])
def test_dataset_without_annotations(dataset, tmp_path, caplog, annotations, folder):
    image_ids = [image["id"] for image in dataset["images"]]
    found = outputs(dataset, image_with_objects(dataset))
    content = {**dataset, "annotations": annotations}
    if annotations is None:
        del content["annotations"]
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    evaluator = FastCOCOEvaluator("evaluated", output_dir=None if folder is None else str(tmp_path / folder))
    evaluator.reset()
    for id_ in image_ids:
        evaluator.process([{"image_id": id_}], [found])
    with caplog.at_level("INFO", logger="flash_internimage"):
        assert evaluator.evaluate() == {}
    number = len(image_ids) * len(found["instances"])
    where = "not saved" if folder is None else f"in {tmp_path}/out/coco_instances_results.json"
    line = f"Dataset evaluated has no annotations: its {number} detections are {where}, and are not compared with anything"
    assert line in caplog.messages
    if folder is not None:
        assert [path.name for path in (tmp_path / folder).iterdir()] == ["coco_instances_results.json"]
        with pytest.raises(UserError, match="holds detections, but no evaluation.json: the dataset has no annotations"):
            read_evaluation(tmp_path / folder)


@pytest.mark.parametrize("limit", [1, 100])
def test_limit_of_detections_is_used_and_saved(dataset, tmp_path, limit, caplog):
    evaluator = FastCOCOEvaluator("evaluated", output_dir=str(tmp_path / "out"), max_dets_per_image=limit)
    results = run(evaluator, dataset)
    assert (results["bbox"]["AP"] > 99) == (limit == 100)
    assert ("but only 1 detection is evaluated for each category and image" in caplog.text) == (limit == 1)
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["max_dets_per_image"] == limit


def test_limit_of_detections_must_be_positive(dataset):
    with pytest.raises(ValueError, match="max_dets_per_image should be 1 or more, got 0"):
        FastCOCOEvaluator("evaluated", max_dets_per_image=0)
