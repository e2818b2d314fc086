import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from hypothesis import given
from hypothesis import strategies as st

from flash_internimage.modeling.matcher import IoUMatcher
from flash_internimage.modeling.roi_heads.roi_heads import sample_proposals

NUM_CLASSES = 5
SETTINGS = {"num_classes": NUM_CLASSES, "num": 8, "positive_fraction": 0.5, "size_divisibility": 32}
MATCHER = IoUMatcher(0.5, 0.5)


def objects(boxes: list[list[float]], classes: list[int]) -> Instances:
    count = len(boxes)
    return Instances(
        (32, 32),
        gt_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)),
        gt_classes=torch.tensor(classes, dtype=torch.int64),
        gt_masks=BitMasks(torch.ones(count, 32, 32)),
        gt_serial=torch.arange(count),
    )


TWO_OBJECTS = objects([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]], [4, 2])


def test_targets_come_first_and_are_matched_to_themselves():
    proposals = torch.tensor([[20.0, 20.0, 30.0, 29.0], [0.0, 20.0, 5.0, 30.0], [0.0, 0.0, 10.0, 9.0]])
    sampled = sample_proposals(proposals, TWO_OBJECTS, MATCHER, **SETTINGS)
    assert sampled.gt_classes.tolist() == [4, 2, 2, 4, NUM_CLASSES]
    assert sampled.gt_serial[:4].tolist() == [0, 1, 1, 0]
    assert sampled.is_target.tolist() == [True, True, False, False, False]
    assert sampled.proposal_boxes.tensor[:2].tolist() == TWO_OBJECTS.gt_boxes.tensor.tolist()
    assert sampled.gt_boxes.tensor[2].tolist() == [20, 20, 30, 30]
    assert sampled.gt_masks.index[:4].tolist() == [0, 1, 1, 0]


def test_identical_targets_keep_their_own_classes():
    twins = objects([[0.0, 0.0, 10.0, 10.0]] * 2, [1, 3])
    assert sample_proposals(torch.zeros(0, 4), twins, MATCHER, **SETTINGS).gt_classes.tolist() == [1, 3]


def test_targets_do_not_compete_with_proposals_in_the_matching():
    # The proposal has its highest IoU with the first target, but is the best proposal of the second. If the targets were
    # matched like proposals, each would be its own best match and the proposal would stay matched to the first.
    near = objects([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 16.0]], [1, 3])
    proposals = torch.tensor([[0.0, 0.0, 10.0, 12.0]])
    claiming = IoUMatcher(0.5, 0.5, low_quality=0.5)
    assert sample_proposals(proposals, near, MATCHER, **SETTINGS).gt_classes.tolist() == [1, 3, 1]
    assert sample_proposals(proposals, near, claiming, **SETTINGS).gt_classes.tolist() == [1, 3, 3]


def test_no_objects():
    sampled = sample_proposals(torch.tensor([[0.0, 0.0, 5.0, 5.0]] * 20), objects([], []), MATCHER, **SETTINGS)
    assert sampled.gt_classes.tolist() == [NUM_CLASSES] * 8
    assert not sampled.has("gt_boxes")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_boxes_have_the_dtype_of_the_proposals(dtype):
    sampled = sample_proposals(torch.zeros(1, 4, dtype=dtype), TWO_OBJECTS, MATCHER, **SETTINGS)
    assert sampled.proposal_boxes.tensor.dtype == sampled.gt_boxes.tensor.dtype == dtype


@given(proposals=st.integers(0, 30), targets=st.integers(0, 6), seed=st.integers(0, 10**6))
def test_positives_come_first_and_numbers_are_within_the_limits(proposals, targets, seed):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(proposals + targets, 2, generator=generator) * 20
    boxes = torch.cat([corners, corners + 4 + torch.rand(proposals + targets, 2, generator=generator) * 4], dim=1)
    truth = objects(boxes[:targets].tolist(), [0] * targets)
    sampled = sample_proposals(boxes[targets:], truth, MATCHER, **SETTINGS)
    positives = int((sampled.gt_classes < NUM_CLASSES).sum())
    assert positives <= 4
    assert len(sampled) <= 8
    assert (sampled.gt_classes[:positives] < NUM_CLASSES).all()
    assert sampled.is_target.sum() <= targets
