"""Each family of detectors learns: on a handful of pictures the loss falls, and what it then finds there is no chance."""

import json
import re
from pathlib import Path

import pytest

from flash_internimage.data.shapes import annotation_file, write_split
from tests.e2e.conftest import REPOSITORY, run_python

# Iterations after which a model knows these pictures well enough; a DETR-like one takes longest to place its boxes.
ITERATIONS = {"mask_rcnn": 80, "cascade": 80, "dino": 150, "retinanet": 80}
# A model that has learned nothing scores below 1.
AP50_BEYOND_CHANCE = 20.0


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("learning")
    write_split(root, "train", 8)
    return root


@pytest.mark.parametrize("family", ITERATIONS)
def test_learns_a_handful_of_pictures(family: str, pictures: Path, tmp_path: Path):
    files = [f"json={annotation_file(pictures, 'train')}", f"images={pictures / 'train'}"]
    done = run_python(
        "train_net.py",
        *("--config-file", REPOSITORY / "configs" / "shapes" / f"{family}_flash_internimage_nano.py"),
        *(f"data.{split}.{file}" for split in ("train", "test") for file in files),
        f"train.output_dir={tmp_path}",
        f"train.max_iter={ITERATIONS[family]}",
        "train.eval_period=0",
        "train.log_period=10",
        "lr_multiplier.warmup_iters=10",
        "dataloader.train.total_batch_size=4",
        "data.augmentation=none",
    )
    assert done.returncode == 0, done.stderr
    losses = [row["total_loss"] for row in map(json.loads, (tmp_path / "metrics.json").open()) if "total_loss" in row]
    assert losses[-1] < 0.7 * losses[0]
    ap50 = float(re.findall(r"copypaste: [-\d.]+,([-\d.]+),", done.stdout)[0])
    assert ap50 > AP50_BEYOND_CHANCE
