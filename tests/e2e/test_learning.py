"""Every detector family learns: trained on a few images, its loss falls and its AP on them is far above chance."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from flash_internimage.data.shapes import annotation_file, write_split
from tests.e2e.conftest import REPOSITORY
from tests.programs import Result

# Iterations until a model fits these images; a DETR-like model takes longest to localize its boxes.
ITERATIONS = {"mask_rcnn": 80, "cascade": 80, "dino": 150, "retinanet": 80}
# A model that has learned nothing scores below 1.
AP50_BEYOND_CHANCE = 20.0


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("learning")
    write_split(root, "train", 8)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("family", ITERATIONS)
def test_learns_a_few_images(family: str, images: Path, tmp_path: Path, train_net: Callable[..., Result]):
    files = [f"json={annotation_file(images, 'train')}", f"images={images / 'train'}"]
    done = train_net(
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
