"""Evaluation from the command line."""

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from flash_internimage.evaluation.saved import read_evaluation

NANO = "configs/shapes/mask_rcnn_flash_internimage_nano.py"
TINY = "tests/engine/tiny_config.py"


@pytest.fixture
def trained(flash_internimage, tmp_path):
    folder = tmp_path / "run"
    assert flash_internimage("train", "--config-file", TINY, f"train.output_dir={folder}").returncode == 0
    return folder


def test_evaluates_the_weights_that_are_named_or_the_last(flash_internimage, trained, tmp_path):
    weights = trained / "model_final.pth"
    named = flash_internimage(
        "eval", "--config-file", TINY, "--weights", weights, f"train.output_dir={tmp_path}/e", "train.init_checkpoint=no.pth"
    )
    assert named.returncode == 0, named.stderr
    last = flash_internimage("eval", "--config-file", trained / "config.yaml", "--trust-config", "--resume")
    assert last.returncode == 0, last.stderr
    figures = [[line for line in done.stdout.splitlines() if "copypaste: " in line] for done in (named, last)]
    assert [line.split("copypaste")[1] for line in figures[0]] == [line.split("copypaste")[1] for line in figures[1]]
    assert figures[0]


def test_weights_that_are_not_there(flash_internimage, tmp_path):
    done = flash_internimage("eval", "--config-file", TINY, "--weights", "no.pth", f"train.output_dir={tmp_path}/e")
    assert done.returncode == 1
    assert done.stderr == "flash-internimage eval: error: checkpoint no.pth: no such file\n"


def test_tiles_and_augmented_views(flash_internimage, nano_checkpoint, tmp_path):
    image = np.random.RandomState(0).randint(0, 256, (100, 150, 3)).astype(np.uint8)
    (tmp_path / "images").mkdir()
    Image.fromarray(image).save(tmp_path / "images/1.png")
    names = ["mug", "spoon", "US$ fork"]
    square = {"bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0, "segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]]}
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 100, "width": 150}],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(names)],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, **square}],
    }
    (tmp_path / "data.json").write_text(json.dumps(content))
    counts = {}
    for name, flags in {"plain": [], "tiles": ["--tile", "80"], "tta": ["--tta"]}.items():
        folder = tmp_path / name
        done = flash_internimage(
            *["eval", "--config-file", NANO, "--weights", nano_checkpoint, *flags, f"train.output_dir={folder}"],
            *[f"data.test.json={tmp_path}/data.json", f"data.test.images={tmp_path}/images", "train.device=cpu"],
            *["train.report=false", "dataloader.test.num_workers=0"],
        )
        assert done.returncode == 0, done.stderr
        predictions = json.loads((folder / "inference/coco_instances_results.json").read_text())
        counts[name] = len(predictions)
        assert mask_util.decode(predictions[0]["segmentation"]).shape == (100, 150)
        assert set(read_evaluation(folder)[0]["tasks"]) == {"bbox", "segm"}
    assert counts["tiles"] > counts["plain"]
    assert counts["tta"] <= 100  # the limit of the model
    assert "tile: 80" in (tmp_path / "tiles/inference/config.yaml").read_text()


def test_views_need_a_mapper(flash_internimage, trained, tmp_path):
    weights = trained / "model_final.pth"
    done = flash_internimage("eval", "--config-file", TINY, "--weights", weights, "--tta", f"train.output_dir={tmp_path}/e")
    assert done.returncode == 1
    assert "error: --tile and --tta: the config should have a dataloader.test.mapper, a TestMapper, but has none" in done.stderr
