"""Datasets registered in code, as detectron2's tutorial does: validated, trained, evaluated and reported like files."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

from flash_internimage.coco_format import contents_of
from flash_internimage.data import TrainingMapper, evaluation_dataset_dicts, require_valid, training_dataset_dicts
from flash_internimage.errors import UserError
from flash_internimage.evaluation import FastCOCOEvaluator
from flash_internimage.evaluation.report import load, write_report

NAME = "registered_in_code"


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Callable[..., list[dict]]]:
    """Registers two images with three objects, which the caller may change, under ``NAME``; returns the dataset dicts."""
    (tmp_path / "images").mkdir()
    for number in (0, 1):
        Image.new("RGB", (80, 60)).save(tmp_path / "images" / f"{number}.png")

    def register(change: Callable[[list[dict]], object] = lambda dicts: None, classes: list[str] | None = None) -> list[dict]:
        mask = np.zeros((60, 80), dtype=np.uint8, order="F")
        mask[10:40, 30:50] = 1
        objects = [
            {
                "bbox": np.array([5.0, 5, 25, 35]),
                "bbox_mode": BoxMode.XYXY_ABS,
                "segmentation": [np.array([5.0, 5, 25, 5, 25, 35])],
            },
            {"bbox": (30, 10, 20, 30), "bbox_mode": BoxMode.XYWH_ABS, "segmentation": mask_util.encode(mask)},
            {"bbox": [5, 5, 25, 35], "bbox_mode": BoxMode.XYXY_ABS, "segmentation": [[5, 5, 25, 5, 25, 35]], "iscrowd": 0},
        ]
        dicts = [
            {
                "file_name": tmp_path / "images" / f"{number}.png",
                "image_id": number,
                "height": 60,
                "width": 80,
                "annotations": [
                    {**o, "category_id": c} for o, c in zip(objects[number * 2 :][: 2 - number], (1, 0), strict=False)
                ],
            }
            for number in (0, 1)
        ]
        change(dicts)
        DatasetCatalog.register(NAME, lambda: dicts)
        if classes is not None:
            MetadataCatalog.get(NAME).thing_classes = classes
        return dicts

    yield register
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def evaluate(output_dir: Path) -> dict:
    """Evaluate a perfect model, and make the report."""
    truth = contents_of(NAME)
    evaluator = FastCOCOEvaluator(NAME, output_dir=str(output_dir))
    for dataset_dict in evaluation_dataset_dicts(NAME):
        objects = [a for a in truth["annotations"] if a["image_id"] == dataset_dict["image_id"]]
        boxes = torch.tensor([a["bbox"] for a in objects], dtype=torch.float32)
        instances = Instances((60, 80))
        instances.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
        instances.scores = torch.full((len(objects),), 0.9)
        instances.pred_classes = torch.tensor([a["category_id"] for a in objects])
        evaluator.process([dataset_dict], [{"instances": instances}])
    return evaluator.evaluate()


def test_trains(register):
    register(classes=["mug", "spoon"])
    require_valid(NAME)
    mapper = TrainingMapper([])
    samples = [mapper(dataset_dict) for dataset_dict in training_dataset_dicts(NAME, with_masks=True)]
    assert [s["instances"].gt_classes.tolist() for s in samples] == [[1, 0], [1]]
    assert samples[0]["instances"].gt_boxes.tensor.tolist() == [[5, 5, 25, 35], [30, 10, 50, 40]]
    assert samples[0]["instances"].gt_masks.tensor[1].sum() == 30 * 20


def test_evaluates_whatever_an_earlier_evaluation_left(register, tmp_path):
    register(classes=["mug", "spoon"])
    folder = tmp_path / "out" / "inference"
    folder.mkdir(parents=True)
    stale = {"images": [], "annotations": [], "categories": [{"id": 0, "name": "old"}]}
    for name in (f"{NAME}_coco_format.json", "ground_truth.json"):
        (folder / name).write_text(json.dumps(stale))
    results = evaluate(folder)
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert [results["bbox"][f"AP-{name}"] for name in ("mug", "spoon")] == pytest.approx([100, 100])
    assert MetadataCatalog.get(NAME).get("json_file") is None
    data = load(tmp_path / "out")
    assert data.names == ["mug", "spoon"]
    assert data.num_objects.tolist() == [1, 2]
    write_report(tmp_path / "out", tmp_path / "report.html")
    assert "cannot be shown" not in (tmp_path / "report.html").read_text()


def test_classes_without_names_have_numbers(register, tmp_path):
    register()
    assert FastCOCOEvaluator(NAME).categories.names == ["class 0", "class 1"]
    assert evaluate(tmp_path / "out")["bbox"]["AP-class 1"] == pytest.approx(100)


def test_images_without_annotations_are_not_compared(register, tmp_path):
    register(lambda dicts: [d.pop("annotations") for d in dicts], classes=["mug"])
    assert "annotations" not in contents_of(NAME)
    assert FastCOCOEvaluator(NAME, output_dir=str(tmp_path)).evaluate() == {}


def first(dicts: list[dict]) -> dict:
    return dicts[0]["annotations"][0]


REFUSED = {
    "box with NaN": (lambda d: first(d).update(bbox=[1, 2, float("nan"), 4]), "annotation 1 of image 0: .*nan"),
    "box of text": (lambda d: first(d).update(bbox="1234"), "not four finite numbers"),
    "no box mode": (lambda d: first(d).pop("bbox_mode"), "image 0 has bbox_mode None; expected BoxMode.XYXY_ABS or"),
    "relative box": (lambda d: first(d).update(bbox_mode=BoxMode.XYWHA_ABS), "expected BoxMode.XYXY_ABS or"),
    "class that is not named": (lambda d: first(d).update(category_id=2), r"category 2; categories are 0 \(mug\), 1 \(spoon\)"),
    "no image id": (lambda d: d[0].pop("image_id"), 'lacks one of "id"'),
    "no size": (lambda d: d[0].pop("height"), 'lacks one of "id", "file_name", "height"'),
    "missing file": (lambda d: d[0].update(file_name="/nowhere/1.png"), "image file is missing: /nowhere/1.png"),
    "annotations of null": (lambda d: d[0].update(annotations=None), '"annotations" is not an object: None'),
    "annotation of null": (lambda d: d[0].update(annotations=[None]), '"annotations" is not an object: None'),
    "run lengths beyond the image": (
        lambda d: first(d).update(segmentation={"size": [60, 80], "counts": [10, 9000]}),
        "sum to 4800 .*sum to 9010",
    ),
    "cut run lengths": (
        lambda d: first(d).update(segmentation={"size": [60, 80], "counts": b"o"}),
        "not a compressed run-length encoding: 'o'",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_invalid_dataset_is_refused_by_name(register, change, message):
    register(change, classes=["mug", "spoon"])
    for use in (require_valid, training_dataset_dicts, evaluation_dataset_dicts):
        with pytest.raises(UserError, match=f"dataset {NAME}: .*{message}"):
            use(NAME)


def test_function_that_returns_something_else(register):
    register()
    DatasetCatalog.remove(NAME)
    DatasetCatalog.register(NAME, lambda: {"images": []})
    with pytest.raises(UserError, match="should return a list of dicts .* returns dict"):
        require_valid(NAME)
