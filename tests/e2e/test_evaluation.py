"""An evaluation leaves its own files only: those of earlier evaluations in its folder are deleted first."""

import json

import numpy as np
import pytest
from PIL import Image

NANO = "configs/shapes/mask_rcnn_flash_internimage_nano.py"
NAMES = ["mug", "spoon", "US$ fork"]


@pytest.fixture
def data(tmp_path):
    """Two annotation files of one small image, with and without annotations, in the classes of ``nano_checkpoint``."""
    image = np.random.RandomState(0).randint(0, 256, (60, 80, 3)).astype(np.uint8)
    (tmp_path / "images").mkdir()
    Image.fromarray(image).save(tmp_path / "images/1.png")
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 60, "width": 80}],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)],
    }
    (tmp_path / "without.json").write_text(json.dumps(content))
    square = {"bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0, "segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]]}
    content["annotations"] = [{"id": 1, "image_id": 1, "category_id": 1, **square}]
    (tmp_path / "with.json").write_text(json.dumps(content))
    return tmp_path


@pytest.fixture
def evaluated(train_net, nano_checkpoint, data):
    """Evaluate in one folder on one of the annotation files; return the result of the program and the files in the folder."""
    folder = data / "run"

    def evaluated(name, *overrides):
        done = train_net(
            "--config-file",
            NANO,
            "--eval-only",
            f"data.test.json={data / name}",
            f"data.test.images={data / 'images'}",
            f"train.init_checkpoint={nano_checkpoint}",
            f"train.output_dir={folder}",
            "train.device=cpu",
            "dataloader.test.num_workers=0",
            *overrides,
        )
        return done, sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    return evaluated


def test_data_without_annotations_after_data_with_annotations(evaluated, data):
    done, files = evaluated("with.json")
    assert done.returncode == 0, done.stderr
    assert files == [
        "inference/coco_instances_results.json",
        "inference/config.yaml",
        "inference/evaluation.json",
        "report.html",
    ]
    (data / "run/config.yaml").write_text("train: {}")  # of the run that trained here
    done, files = evaluated("without.json")
    assert done.returncode == 0, done.stderr
    assert files == ["config.yaml", "inference/coco_instances_results.json", "inference/config.yaml"]
    assert "without.json" in (data / "run/inference/config.yaml").read_text()
    assert len(json.loads((data / "run/inference/coco_instances_results.json").read_text())) > 0
    assert f"detections are in {data}/run/inference/coco_instances_results.json, and are not compared" in done.stdout
    assert "bbox" not in done.stdout.split("are not compared")[1]


def test_an_evaluation_that_fails_leaves_no_older_results(evaluated, data):
    assert evaluated("with.json")[0].returncode == 0
    Image.new("RGB", (80, 60)).save(data / "images/1.png")
    (data / "images/1.png").write_bytes((data / "images/1.png").read_bytes()[:60])
    done, files = evaluated("with.json")
    assert done.returncode == 1
    assert files == []


def test_an_evaluation_during_training_deletes_an_older_report(train_net, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "report.html").write_text("AP 99")
    done = train_net("--config-file", "tests/engine/tiny_config.py", f"train.output_dir={folder}")
    assert done.returncode == 0, done.stderr
    assert not (folder / "report.html").exists()
