"""The code blocks of docs/integrations.md that need detections or a package: executed, if the package is installed."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from PIL import Image

from flash_internimage import Predictor, model_zoo
from flash_internimage.checkpoint import Checkpointer
from flash_internimage.data import Categories
from flash_internimage.engine.config import save_config
from flash_internimage.inference.detections import Detections
from flash_internimage.structures import select
from tests.docs.blocks import read_blocks, read_commands

HEIGHT, WIDTH = 90, 120


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, with an image and the run of a detector whose random weights give high scores."""
    monkeypatch.chdir(tmp_path)
    cfg = model_zoo.get_config("mask_rcnn_flash_internimage_nano")
    cfg.train.device = "cpu"
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    model.roi_heads.box_predictor.cls_score.bias.data[0] = 5
    Path("output/predictions").mkdir(parents=True)
    checkpointer = Checkpointer(model, "output")
    checkpointer.add_checkpointable("classes", Categories.from_names(["mug", "spoon", "fork", "knife"]))
    checkpointer.save("model_final")
    save_config(cfg, "output/config.yaml")
    Path("photos").mkdir()
    pixels = np.random.RandomState(0).randint(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    Image.fromarray(pixels).save("photos/street.jpg")
    return tmp_path


@pytest.fixture
def detected(folder):
    """The six best detections in the image, and their class names; they are also in ``detections.json``."""
    predictor = Predictor("output/config.yaml", "output/model_final.pth", min_score=0.5)
    instances = select(predictor("photos/street.jpg")["instances"], torch.arange(6))
    written = Detections(predictor.categories)
    written.add(str(folder / "photos/street.jpg"), instances, "street.jpg")
    Path("output/predictions/detections.json").write_text(json.dumps(written.as_coco()), encoding="utf-8")
    return instances, [predictor.class_names[k] for k in instances.pred_classes]


def blocks_that_need(repository, need):
    blocks = [block for block in read_blocks(repository / "docs/integrations.md") if need in block.needs]
    assert blocks
    return blocks


def execute(repository, package):
    """Execute the blocks of the page that need a package; return their variables."""
    variables = {"__name__": "__main__"}
    for block in blocks_that_need(repository, package):
        exec(compile(block.text, block.place, "exec"), variables)
    return variables


def test_conversions(repository, detected, run_program):
    (block,) = blocks_that_need(repository, "detections")
    for words in read_commands(block.text):
        run_program(words)
    for file in ("cvat/annotations.xml", "label-studio/tasks.json", "yolo/labels/street.txt", "voc/Annotations/street.xml"):
        assert Path(file).is_file(), file


def test_supervision(repository):
    supervision = pytest.importorskip("supervision")
    variables = execute(repository, "supervision")
    assert isinstance(variables["detections"], supervision.Detections)
    assert_equal(variables["detections"], variables["predictor"]("photos/street.jpg")["instances"])


@pytest.mark.parametrize("options", [{"tile": 80}, {"tta": True}], ids=["tiles", "tta"])
def test_supervision_reads_detections_on_views(options):
    supervision = pytest.importorskip("supervision")
    output = Predictor("output/config.yaml", "output/model_final.pth", min_score=0.5, **options)("photos/street.jpg")
    assert_equal(supervision.Detections.from_detectron2(output), output["instances"])


def assert_equal(detections, instances):
    assert len(detections) == len(instances) > 5
    assert np.array_equal(detections.xyxy, instances.pred_boxes.tensor)
    assert np.array_equal(detections.confidence, instances.scores)
    assert detections.class_id.tolist() == instances.pred_classes.tolist()
    assert np.array_equal(detections.mask, np.stack([mask.numpy() for mask in instances.pred_masks]))


@pytest.mark.slow
def test_fiftyone(repository, folder, detected, monkeypatch):
    monkeypatch.setenv("FIFTYONE_DATABASE_DIR", str(folder / "database"))
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "true")
    fiftyone = pytest.importorskip("fiftyone")
    try:
        fiftyone.list_datasets()
    except fiftyone.core.config.FiftyOneConfigError as error:
        pytest.skip(f"FiftyOne has no database: {error}")
    shown = []

    class Session:
        def __init__(self, dataset):
            shown.append(dataset)

        def wait(self):
            shown.append("waited")

    monkeypatch.setattr(fiftyone, "launch_app", Session)
    dataset = execute(repository, "fiftyone")["dataset"]
    assert shown == [dataset, "waited"]
    (sample,) = dataset
    assert os.path.samefile(sample.filepath, "photos/street.jpg")
    instances, names = detected
    boxes = instances.pred_boxes.tensor
    relative = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1) / torch.tensor([WIDTH, HEIGHT]).repeat(2)
    for field in ("detections", "segmentations"):
        found = sample[field].detections
        assert [label.label for label in found] == names, field
        assert [label.confidence for label in found] == pytest.approx(instances.scores.tolist()), field
        assert np.array([label.bounding_box for label in found]) == pytest.approx(relative.numpy()), field
    corners = boxes.round().int().tolist()
    for label, mask, (x0, y0, x1, y1) in zip(sample.segmentations.detections, instances.pred_masks, corners, strict=True):
        assert np.array_equal(label.mask, mask[y0:y1, x0:x1].numpy())
