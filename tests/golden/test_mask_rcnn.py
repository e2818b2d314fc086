"""Mask R-CNN against all stored results of MMDetection: evaluation, training, gradients, double and single precision."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.golden.comparison import marks
from tests.golden.conftest import Judge
from tests.golden.two_stage import SIZES, Arrays, Golden, Run, build, compare_stored, numpy, stored_results
from tests.reference import Reference

REFERENCE = Reference(Path(__file__).parent.parent / "reference")
PRECISIONS = {"float64": torch.float64, "float32": torch.float32}
# Every 32nd channel of the region features is stored.
CHANNEL_STRIDE = 32


@cache
def stored(size: str) -> Golden:
    return REFERENCE.golden(f"mask_rcnn_{size}")


def heads_on_stored_boxes(run: Run) -> Arrays:
    """``box_head/*`` and ``mask_head/*``: results of the heads on stored boxes."""
    heads = run.model.eval().roi_heads
    with torch.no_grad():
        regions = heads.box_pooler(run.levels(heads.box_in_features), run.stored_boxes("box_head/rois"))
        logits, deltas = heads.box_predictor(heads.box_head(regions))
        mask_regions = heads.mask_pooler(run.levels(heads.mask_in_features), run.stored_boxes("mask_head/rois"))
        masks = heads.mask_head.layers(mask_regions)[:, :: int(run.golden["mask_head/class_stride"])]
    return {
        "box_head/logits": numpy(logits),
        "box_head/deltas": numpy(deltas),
        "box_head/roi_features": numpy(regions[:, ::CHANNEL_STRIDE]),
        "mask_head/logits": numpy(masks),
    }


def training(run: Run) -> Arrays:
    """``loss/*``, ``train/*`` and ``grad_norm/*``: results of a training step."""
    step = run.train(norm_eval=False)
    losses = {name: loss.item() for name, loss in step.losses.items()}
    stage = step.stage_arrays(0)
    rpn = step.rpn_arrays()
    transform = run.model.roi_heads.box_predictor.box2box_transform
    positives = torch.from_numpy(stage["rois"][stage["labels"] < 80, 1:])
    arrays = {
        **{name: value for name, value in rpn.items() if name.startswith("loss/")},
        **{f"train/{name}": value for name, value in rpn.items() if not name.startswith("loss/")},
        "loss/loss_cls": np.array([losses["loss_cls"]]),
        "loss/loss_bbox": np.array([losses["loss_box_reg"]]),
        "loss/loss_mask": np.array([losses["loss_mask"]]),
        "loss/acc": stage["acc"],
        "loss/total": np.array(sum(losses.values())),
        "train/rois": stage["rois"],
        "train/labels": stage["labels"],
        "train/label_weights": np.ones(len(stage["labels"])),
        "train/box_targets": numpy(transform.get_deltas(positives, torch.from_numpy(stage["target_boxes"]))),
        "train/box_logits_mean": stage["logits_mean"],
        "train/box_deltas_mean": stage["deltas_mean"],
        "train/mask_targets_bits": stage["mask_targets_bits"],
        "train/mask_targets_shape": stage["mask_targets_shape"],
        "grad_norm/values": run.gradient_norms(step.losses),
    }
    for name, proposals in zip(SIZES, step.scored_proposals(), strict=True):
        arrays[f"train/{name}/proposals"] = proposals
        arrays[f"train/{name}/roi_counts"] = stage[f"{name}/counts"]
        arrays[f"train/{name}/roi_positive_gt"] = stage[f"{name}/positive_gt"]
    return arrays


def compute(size: str, dtype: torch.dtype, repository: Path, folder: Path) -> Arrays:
    recipe = f"mask_rcnn_flash_intern_image_{size}_fpn_1x_coco"
    run = Run(build(recipe, dtype, REFERENCE, repository, folder, with_cp=False), stored(size))
    arrays = training(run)
    run.features = {name: feature.detach() for name, feature in run.features.items()}
    arrays |= run.pyramid() | run.region_proposals() | heads_on_stored_boxes(run) | run.detections("detections")
    run.model.roi_heads.box_predictor.test_score_thresh = 0.0
    return arrays | run.detections("detections_all")


@pytest.fixture(scope="module")
def computed() -> dict[tuple[str, str], Arrays]:
    """Cache of results: a model runs once per precision, when the first test needs it."""
    return {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize with all stored arrays of T in both precisions and of S in double precision; ``--parity`` adds the rest."""
    runs = [("t", "float64"), ("t", "float32"), ("s", "float64")]
    if metafunc.config.getoption("--parity", default=False):
        runs.append(("s", "float32"))
    cases = [
        pytest.param(size, precision, name, id=f"{size}-{precision}-{name}", marks=marks(size, precision))
        for size, precision in runs
        for name in stored_results(stored(size))
    ]
    metafunc.parametrize(("size", "precision", "name"), cases)


def test_equals_mmdetection(
    size: str,
    precision: str,
    name: str,
    computed: dict[tuple[str, str], Arrays],
    repository: Path,
    tmp_path: Path,
    judge: Judge,
):
    dtype = PRECISIONS[precision]
    if (size, precision) not in computed:
        computed[size, precision] = compute(size, dtype, repository, tmp_path)
    judge(f"mask_rcnn_{size}", precision, compare_stored(name, computed[size, precision][name], stored(size), dtype))
