import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch.testing import assert_close

from flash_internimage.modeling.box_regression import BoxTransform
from flash_internimage.modeling.roi_heads import cascade_rcnn
from flash_internimage.modeling.roi_heads.cascade_rcnn import CascadeRoIHeads, refine_boxes, refinement_classes
from flash_internimage.structures.boxes import PreciseBoxes
from tests.modeling.detectors import CONFIGS, shrink, targets

SIZE = (64, 96)


@pytest.fixture
def heads() -> CascadeRoIHeads:
    config = LazyConfig.load(str(CONFIGS / "cascade_mask_rcnn_fpn.py"))
    return instantiate(shrink(config.model)).roi_heads


def pyramid() -> dict[str, torch.Tensor]:
    return {f"p{level}": torch.randn(1, 16, 256 // 2**level, 384 // 2**level) for level in range(2, 6)}


def proposals(count: int) -> list[Instances]:
    corners = torch.rand(count, 2) * torch.tensor([60.0, 30.0])
    boxes = torch.cat([corners, corners + 4 + torch.rand(count, 2) * 30], dim=1)
    return [Instances(SIZE, proposal_boxes=PreciseBoxes(boxes))]


def test_refine_boxes_uses_the_deltas_of_one_class_and_clips():
    boxes = torch.tensor([[10.0, 10.0, 20.0, 20.0], [80.0, 10.0, 90.0, 20.0]])
    deltas = torch.zeros(2, 12, requires_grad=True)
    with torch.no_grad():
        deltas[0, 4], deltas[1, 8] = 1.0, 30.0  # class 1: shift by 0.1 widths; class 2: by 3 widths
    refined = refine_boxes(boxes, deltas, torch.tensor([1, 2]), BoxTransform((0.1, 0.1, 0.2, 0.2)), SIZE)
    assert_close(refined, torch.tensor([[11.0, 10.0, 21.0, 20.0], [96.0, 10.0, 96.0, 20.0]]))
    assert not refined.requires_grad


def test_background_is_refined_with_the_top_scoring_foreground_class():
    logits = torch.tensor([[1.0, 2.0, 9.0], [1.0, 2.0, 9.0], [3.0, 2.0, 0.0]])
    assert refinement_classes(logits).tolist() == [1, 1, 0]
    assert refinement_classes(logits, torch.tensor([0, 2, 1])).tolist() == [0, 1, 1]


def test_a_stage_trains_on_the_refined_boxes_of_the_previous_stage(heads: CascadeRoIHeads, monkeypatch: pytest.MonkeyPatch):
    inputs, sampled = [], []
    unpatched = cascade_rcnn.sample_proposals

    def spy(boxes, *arguments):
        inputs.append(boxes)
        sampled.append(unpatched(boxes, *arguments))
        return sampled[-1]

    monkeypatch.setattr(cascade_rcnn, "sample_proposals", spy)
    refined = []
    monkeypatch.setattr(cascade_rcnn, "refine_boxes", lambda boxes, *_: refined.append(boxes + 1) or refined[-1])
    start = proposals(20)
    with EventStorage():
        heads.train()(None, pyramid(), start, targets(SIZE, [[8.0, 8.0, 40.0, 40.0]]))
    assert torch.equal(inputs[0], start[0].proposal_boxes.tensor)
    for stage in (1, 2):
        before = sampled[stage - 1]
        assert before.is_target.sum() == 1
        assert torch.equal(inputs[stage], refined[stage - 1][~before.is_target])
        assert len(inputs[stage]) == len(before) - 1


def test_losses_are_weighted_by_stage(heads: CascadeRoIHeads):
    # With equal weights and without refinement all stages compute the same losses before weighting.
    for parts in (heads.box_head, heads.box_predictor, heads.mask_head):
        for part in parts[1:]:
            part.load_state_dict(parts[0].state_dict())
    heads.proposal_matchers = [heads.proposal_matchers[0]] * 3
    for predictor in heads.box_predictor:
        predictor.bbox_pred.weight.data.zero_()
        predictor.box2box_transform = heads.box_predictor[0].box2box_transform
    for module in heads.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    with EventStorage():
        _, losses = heads.train()(None, pyramid(), proposals(20), targets(SIZE, [[8.0, 8.0, 40.0, 40.0]]))
    assert set(losses) == {f"{name}_stage{s}" for name in ("loss_cls", "loss_box_reg", "loss_mask") for s in range(3)}
    for name in ("loss_cls", "loss_box_reg", "loss_mask"):
        first, second, third = (losses[f"{name}_stage{stage}"] for stage in range(3))
        assert_close(second, first * 0.5)
        assert_close(third, first * 0.25)


def test_scores_are_the_softmax_of_mean_logits(heads: CascadeRoIHeads, monkeypatch: pytest.MonkeyPatch):
    logits = [torch.randn(5, 81) for _ in range(3)]
    deltas = torch.zeros(5, 320)
    monkeypatch.setattr(heads, "_run_stage", lambda features, proposals, stage: (logits[stage], deltas))
    heads.eval().box_predictor[-1].test_score_thresh = 0.0
    heads.box_predictor[-1].test_topk_per_image = -1
    heads.box_predictor[-1].test_nms_thresh = 1.0
    detections = heads._detect({}, proposals(5))[0]
    expected = (sum(logits) / 3).softmax(dim=1)[:, :80]
    assert_close(detections.scores, expected.flatten().sort(descending=True).values)


def test_half_precision_logits_are_averaged_and_ranked_in_the_precision_of_the_boxes(
    heads: CascadeRoIHeads, monkeypatch: pytest.MonkeyPatch
):
    logits = [torch.randn(100, 81).bfloat16() for _ in range(3)]
    deltas = torch.zeros(100, 320).bfloat16()
    monkeypatch.setattr(heads, "_run_stage", lambda features, proposals, stage: (logits[stage], deltas))
    heads.eval().box_predictor[-1].test_score_thresh = 0.0
    heads.box_predictor[-1].test_nms_thresh = 1.0
    with torch.autocast("cpu", torch.bfloat16):
        detections = heads._detect({}, proposals(100))[0]
    expected = (sum(stage.float() for stage in logits) / 3).softmax(dim=1)[:, :80]
    assert_close(detections.scores, expected.flatten().sort(descending=True).values[:100])


def test_masks_are_the_mean_probabilities_of_the_mask_heads(heads: CascadeRoIHeads):
    features = pyramid()
    boxes = proposals(3)[0].proposal_boxes
    classes = torch.tensor([0, 7, 79])
    with torch.no_grad():
        found = heads.eval().forward_with_given_boxes(features, [Instances(SIZE, pred_boxes=boxes, pred_classes=classes)])
        regions = heads.mask_pooler([features[name] for name in heads.mask_in_features], [boxes])
        each = torch.stack([head.layers(regions)[range(3), classes].sigmoid() for head in heads.mask_head])
    assert_close(found[0].pred_masks[:, 0], each.mean(dim=0))


def test_no_gradient_through_refined_boxes(heads: CascadeRoIHeads):
    with EventStorage():
        _, losses = heads.train()(None, pyramid(), proposals(20), targets(SIZE, [[8.0, 8.0, 40.0, 40.0]]))
    later = [loss for name, loss in losses.items() if not name.endswith("stage0")]
    first = [p for part in (heads.box_head[0], heads.box_predictor[0], heads.mask_head[0]) for p in part.parameters()]
    assert torch.autograd.grad(sum(later), first, allow_unused=True) == (None,) * len(first)


def test_lists_of_different_lengths():
    config = shrink(LazyConfig.load(str(CONFIGS / "cascade_mask_rcnn_fpn.py")).model)
    config.roi_heads.stage_loss_weights = [1.0, 0.5]
    with pytest.raises(ValueError, match="each of these arguments needs one entry per stage, got .*'stage_loss_weights': 2"):
        instantiate(config)


def test_training_without_targets(heads: CascadeRoIHeads):
    with pytest.raises(ValueError, match="CascadeRoIHeads: training needs targets, got None"):
        heads.train()(ImageList(torch.zeros(1, 3, *SIZE), [SIZE]), pyramid(), proposals(2))


def test_accepts_detectron2_boxes(heads: CascadeRoIHeads):
    boxes = [Instances(SIZE, proposal_boxes=Boxes(torch.tensor([[1.0, 1.0, 20.0, 20.0]])))]
    with torch.no_grad():
        assert len(heads.eval()(None, pyramid(), boxes)[0]) == 1
