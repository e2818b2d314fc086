"""Cascade Mask R-CNN against all stored results of MMDetection, with running and with batch statistics."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from torch import Tensor

from flash_internimage.modeling.roi_heads.cascade_rcnn import refine_boxes, refinement_classes
from tests.golden.conftest import Judge
from tests.golden.two_stage import SIZES, Arrays, Run, Step, build, compare_stored, nearest_rows, numpy, stored_results
from tests.reference import Reference

REFERENCE = Reference(Path(__file__).parent.parent / "reference")
GOLDEN = REFERENCE.golden("cascade_l")
PRECISIONS = {"float64": torch.float64, "float32": torch.float32}
STAGES = range(3)
# Every fourth proposal of a stage is stored.
PROPOSAL_STRIDE = 4


@torch.no_grad()
def heads_on_stored_boxes(run: Run) -> Arrays:
    """``box_head/stageN/*`` and ``mask_head/stageN/*``: results of each stage on the same stored boxes."""
    heads = run.model.eval().roi_heads
    boxes = run.stored_boxes("box_head/rois")
    regions = heads.box_pooler(run.levels(heads.box_in_features), boxes)
    mask_regions = heads.mask_pooler(run.levels(heads.mask_in_features), run.stored_boxes("mask_head/rois"))
    arrays = {}
    for stage in STAGES:
        logits, deltas = heads.box_predictor[stage](heads.box_head[stage](regions))
        masks = heads.mask_head[stage].layers(mask_regions)[:, :: int(run.golden["mask_head/class_stride"])]
        sizes = [len(image) for image in boxes]
        refined = [
            refine_boxes(b.tensor, d, refinement_classes(c), heads.box_predictor[stage].box2box_transform, size)
            for b, d, c, size in zip(boxes, deltas.split(sizes), logits.split(sizes), SIZES.values(), strict=True)
        ]
        arrays[f"box_head/stage{stage}/logits"] = numpy(logits)
        arrays[f"box_head/stage{stage}/deltas"] = numpy(deltas)
        arrays[f"box_head/stage{stage}/refined"] = to_rois(refined)
        arrays[f"mask_head/stage{stage}/logits"] = numpy(masks)
    return arrays


def to_rois(boxes: list[Tensor]) -> np.ndarray:
    """Concatenate the boxes of each image to ``(image index, x1, y1, x2, y2)`` rows."""
    return numpy(torch.cat([torch.cat([b.new_full((len(b), 1), n), b], dim=1) for n, b in enumerate(boxes)]))


def detect_by_stage(run: Run, prefix: str, detections: str, every_detection: str | None = None) -> Arrays:
    """``<prefix>test/stageN/*`` and the detections, under the name ``every_detection`` also without a score threshold."""
    heads = run.model.roi_heads
    run_stage = heads._run_stage
    outputs: dict[int, tuple[Tensor, Tensor]] = {}
    rows: list[np.ndarray] = []
    arrays: Arrays = {}

    def spy(features: dict[str, Tensor], proposals: list[Instances], stage: int) -> tuple[Tensor, Tensor]:
        if stage not in outputs:  # the second pass gives the same outputs: thresholds apply after the last stage
            outputs[stage] = run_stage(features, proposals, stage)
            name, rois = f"{prefix}test/stage{stage}", to_rois([image.proposal_boxes.tensor for image in proposals])
            if stage == 0 and rois.dtype == np.float32:
                # Neighbors in the ranking can swap in float32.
                stored = run.golden[f"{name}/rois"]
                rows.append(nearest_rows(rois[:, 1:], stored[:, 1:], rois[:, 0], stored[:, 0], same_number=False))
            kept = rows[0] if rows else slice(None, None, PROPOSAL_STRIDE)
            arrays[f"{name}/rois"] = rois[kept]
            arrays[f"{name}/logits_max"] = numpy(outputs[stage][0].max(dim=1).values)[kept]
        return outputs[stage]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "_run_stage", spy)
        arrays |= run.detections(detections)
        if every_detection is not None:
            patch.setattr(heads.box_predictor[-1], "test_score_thresh", 0.0)
            arrays |= run.detections(every_detection)
    return arrays


def training(step: Step) -> Arrays:
    """All stored results of a training step, without the prefix of their names."""
    arrays = step.rpn_arrays()
    total = sum(loss.item() for loss in step.losses.values())
    arrays["loss/total"] = np.array(total)
    for stage in STAGES:
        values = step.stage_arrays(stage)
        arrays[f"loss/s{stage}.acc"] = values.pop("acc")
        arrays[f"stage{stage}/box_targets"] = values.pop("target_boxes")
        arrays |= {f"stage{stage}/{name}": value for name, value in values.items()}
        for theirs, ours in {"loss_cls": "loss_cls", "loss_bbox": "loss_box_reg", "loss_mask": "loss_mask"}.items():
            arrays[f"loss/s{stage}.{theirs}"] = np.array([step.losses[f"{ours}_stage{stage}"].item()])
    return arrays


def compute(size: str, dtype: torch.dtype, repository: Path, folder: Path) -> Arrays:
    golden = GOLDEN
    recipe = f"cascade_flash_intern_image_{size}_fpn_1x_coco"
    # With gradient checkpointing, because the model needs more memory than a laptop has otherwise.
    run = Run(build(recipe, dtype, REFERENCE, repository, folder, with_cp=True), golden)
    step = run.train(norm_eval=True)
    arrays = {f"train/{name}": value for name, value in training(step).items()}
    arrays["train/grad_norm/values"] = run.gradient_norms(step.losses)
    del step
    run.model.zero_grad(set_to_none=True)
    with torch.no_grad():
        run.features = {name: feature.detach() for name, feature in run.features.items()}
        arrays |= run.pyramid() | run.region_proposals(int(golden["rpn_deltas_space_stride"]))
        arrays |= heads_on_stored_boxes(run) | detect_by_stage(run, "", "detections", "detections_all")
        statistics = {name: buffer.clone() for name, buffer in run.model.named_buffers()}
        arrays |= {f"train_batch_statistics/{k}": v for k, v in training(run.train(norm_eval=False)).items()}
        for name, buffer in run.model.named_buffers():
            buffer.copy_(statistics[name])
        for predictor in run.model.roi_heads.box_predictor:
            predictor.cls_score.weight *= float(golden["sharp/factor"])
        arrays |= detect_by_stage(run, "sharp/", "sharp/detections")
    return arrays


@pytest.fixture(scope="module")
def computed() -> dict[str, Arrays]:
    """Cache of results: the model runs once per precision, when the first test needs it."""
    return {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize with all stored arrays in double precision; ``--parity`` adds single precision, which takes minutes.

    Results with batch statistics are compared in double precision only: a single changed sample changes all outputs.
    """
    cases = [("float64", name) for name in stored_results(GOLDEN)]
    if metafunc.config.getoption("--parity", default=False):
        cases += [("float32", name) for _, name in cases if not name.startswith("train_batch_statistics/")]
    metafunc.parametrize(("precision", "name"), cases, ids=["-".join(case) for case in cases])


@pytest.mark.slow
@pytest.mark.timeout(3600)  # the first of these tests runs the model
def test_equals_mmdetection(
    precision: str,
    name: str,
    computed: dict[str, Arrays],
    repository: Path,
    tmp_path: Path,
    judge: Judge,
):
    dtype = PRECISIONS[precision]
    if precision not in computed:
        computed[precision] = compute("l", dtype, repository, tmp_path)
    judge("cascade_l", precision, compare_stored(name, computed[precision][name], GOLDEN, dtype))
