import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch.testing import assert_close

from flash_internimage.modeling.anchor_generator import AnchorGenerator
from flash_internimage.modeling.box_regression import BoxTransform
from flash_internimage.modeling.matcher import IoUMatcher
from flash_internimage.modeling.proposal_generator.rpn import RPN, label_anchors, loss_normalizer, round_up, select_proposals
from flash_internimage.structures.boxes import PreciseBoxes

LEVELS = {"p2": 4, "p3": 8}


def build(**changes: object) -> RPN:
    settings = {
        "in_features": list(LEVELS),
        "head": StandardRPNHead(in_channels=8, num_anchors=3),
        "anchor_generator": AnchorGenerator(sizes=[[16], [32]], aspect_ratios=[0.5, 1.0, 2.0], strides=[4, 8]),
        "anchor_matcher": IoUMatcher(positive=0.7, negative=0.3, low_quality=0.3),
        "box2box_transform": BoxTransform(),
        "batch_size_per_image": 64,
        "positive_fraction": 0.5,
        "pre_nms_topk": (100, 50),
        "post_nms_topk": (60, 30),
    }
    return RPN(**{**settings, **changes})


def batch(sizes: list[tuple[int, int]]) -> tuple[ImageList, dict[str, torch.Tensor]]:
    height, width = (max(side) for side in zip(*(round_up(size, 32) for size in sizes), strict=True))
    features = {name: torch.randn(len(sizes), 8, height // s, width // s) for name, s in LEVELS.items()}
    return ImageList(torch.zeros(len(sizes), 3, height, width), sizes), features


def objects(size: tuple[int, int], boxes: list[list[float]]) -> Instances:
    return Instances(size, gt_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)))


@pytest.mark.parametrize(("size", "expected"), [((32, 64), (32, 64)), ((1, 33), (32, 64)), ((213, 331), (224, 352))])
def test_round_up(size, expected):
    assert round_up(size, 32) == expected


def test_anchors_in_the_padding_of_the_batch_are_not_eligible():
    rpn = build()
    images, features = batch([(30, 60), (64, 96)])
    levels = list(features.values())
    anchors = torch.cat([boxes.tensor for boxes in rpn.anchor_generator(levels)])
    small, large = (rpn.eligible_anchors(levels, None, size) for size in images.image_sizes)
    centers = ((anchors[:, :2] + anchors[:, 2:]) / 2).round()
    # The small image alone would be padded to 32 x 64; anchors in that padding are eligible.
    assert torch.equal(small, (centers[:, 0] < 64) & (centers[:, 1] < 32))
    assert large.all()


def test_anchor_boundary_thresh_excludes_anchors_across_the_image_border():
    rpn = build(anchor_boundary_thresh=0.0)
    _, features = batch([(64, 64)])
    levels = list(features.values())
    anchors = PreciseBoxes.cat(rpn.anchor_generator(levels))
    eligible = rpn.eligible_anchors(levels, anchors, (64, 60))
    x1, y1, x2, y2 = anchors.tensor.unbind(1)
    assert torch.equal(eligible, (x1 >= 0) & (y1 >= 0) & (x2 < 60) & (y2 < 64))
    assert eligible.any()


def test_ineligible_anchors_cannot_claim_a_target():
    anchors = PreciseBoxes(torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 4.0]]))
    target = PreciseBoxes(torch.tensor([[0.0, 0.0, 10.0, 10.0]]))
    matcher = IoUMatcher(0.7, 0.3, low_quality=0.3)
    assert label_anchors(anchors, torch.tensor([True, True]), target, matcher)[1].tolist() == [1, -1]
    assert label_anchors(anchors, torch.tensor([False, True]), target, matcher)[1].tolist() == [-1, 1]


def test_normalizer_counts_at_least_one_positive_and_one_negative_per_image():
    labels = torch.tensor([[1, 1, 0, -1], [0, 0, 0, -1], [-1, -1, -1, -1]])
    assert loss_normalizer(labels) == (2 + 1) + (1 + 3) + (1 + 1)


def test_losses_by_hand():
    rpn = build(smooth_l1_beta=0.5)
    _, features = batch([(32, 32)])
    anchors = rpn.anchor_generator(list(features.values()))
    sizes = [len(level) for level in anchors]
    logits = [torch.full((1, size), 0.3) for size in sizes]
    deltas = [torch.zeros(1, size, 4) for size in sizes]
    labels = torch.full((1, sum(sizes)), -1)
    labels[0, [0, 5]], labels[0, sizes[0]] = torch.tensor([1, 0]), 0
    # The target of the first anchor is shifted by 0.1 of its width (quadratic loss) and 1.0 of its height (linear loss).
    first = anchors[0].tensor[0]
    width, height = first[2] - first[0], first[3] - first[1]
    matched = torch.zeros(1, sum(sizes), 4)
    matched[0, 0] = first + torch.stack([0.1 * width, height, 0.1 * width, height])
    with EventStorage():
        classification, regression = rpn.losses_by_level(anchors, logits, deltas, labels, matched)
    positive, negative = F.softplus(torch.tensor(-0.3)), F.softplus(torch.tensor(0.3))
    assert_close(torch.stack(classification), torch.stack([positive + negative, negative]) / 3)
    assert_close(torch.stack(regression), torch.tensor([(0.5 * 0.1**2 / 0.5 + 1 - 0.25) / 3, 0.0]))


def test_proposals_are_clipped_filtered_and_ranked_within_levels():
    boxes = torch.tensor(
        [
            [-5.0, 0.0, 10.0, 10.0],
            [0.0, 0.0, 10.0, 10.0],  # equal to the first after clipping
            [0.0, 0.0, 10.0, 10.0],  # equal, but on another level
            [60.0, 0.0, 70.0, 10.0],  # outside the image
            [0.0, 20.0, 30.0, 40.0],
            [0.0, torch.nan, 5.0, 5.0],
        ]
    )
    logits, levels = torch.tensor([1.0, 2.0, 3.0, 9.0, 4.0, 9.0]), torch.tensor([0, 0, 1, 0, 0, 0])
    proposals = select_proposals(boxes, logits, levels, (50, 50), nms_threshold=0.7, max_proposals=10, min_size=0)
    assert proposals.objectness_logits.tolist() == [4, 3, 2]
    assert proposals.proposal_boxes.tensor.tolist() == [[0, 20, 30, 40], [0, 0, 10, 10], [0, 0, 10, 10]]
    assert len(select_proposals(boxes, logits, levels, (50, 50), 0.7, max_proposals=1, min_size=0)) == 1


def test_number_of_proposals_in_training_and_at_test_time():
    rpn = build(nms_thresh=1.0)
    images, features = batch([(64, 96)])
    assert len(rpn.eval()(images, features)[0][0]) == 30
    targets = [objects((64, 96), [[10, 10, 40, 40]])]
    with EventStorage():
        assert len(rpn.train()(images, features, targets)[0][0]) == 60


@pytest.mark.parametrize(
    "boxes",
    [[], [[5.0, 5.0, 6.0, 6.0]], [[0.0, 0.0, 64.0, 64.0]]],
    ids=["no objects", "one-pixel object", "object covering the image"],
)
def test_losses_give_every_parameter_a_finite_gradient(boxes):
    rpn = build()
    images, features = batch([(64, 64), (20, 90)])
    with EventStorage():
        _, losses = rpn(images, features, [objects((64, 64), boxes), objects((20, 90), [])])
    assert list(losses) == ["loss_rpn_cls", "loss_rpn_loc"]
    sum(losses.values()).backward()
    for name, parameter in rpn.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_an_image_without_eligible_anchors():
    rpn = build(anchor_boundary_thresh=0.0)
    images, features = batch([(5, 5)])
    with EventStorage():
        _, losses = rpn(images, features, [objects((5, 5), [[0.0, 0.0, 5.0, 5.0]])])
    assert all(loss == 0 for loss in losses.values())


def test_nan_features_give_nan_losses_but_finite_proposals():
    rpn = build()
    images, features = batch([(64, 64)])
    features["p2"].fill_(torch.nan)
    with EventStorage():
        proposals, losses = rpn(images, features, [objects((64, 64), [[0.0, 0.0, 16.0, 16.0]])])
    assert losses["loss_rpn_cls"].isnan()
    assert proposals[0].proposal_boxes.tensor.isfinite().all()


def test_training_without_targets():
    with pytest.raises(ValueError, match="RPN: training needs gt_instances, got None"):
        build()(*batch([(32, 32)]))
