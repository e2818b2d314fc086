import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou

from flash_internimage.modeling import nms
from flash_internimage.modeling.nms import batched_nms


def naive(boxes: torch.Tensor, scores: torch.Tensor, groups: torch.Tensor, threshold: float) -> list[int]:
    """Greedy NMS that compares group indices instead of shifting boxes."""
    kept = []
    for index in sorted(range(len(boxes)), key=lambda i: -scores[i].item()):
        rivals = [k for k in kept if groups[k] == groups[index]]
        if all(box_iou(boxes[k][None], boxes[index][None]).item() <= threshold for k in rivals):
            kept.append(index)
    return kept


def random_case(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, dtype=torch.float64, generator=generator) * 20
    boxes = torch.cat([corners, corners + 1 + torch.rand(count, 2, dtype=torch.float64, generator=generator) * 20], dim=1)
    # Few distinct scores produce ties, which are broken by position.
    scores = torch.randint(0, 5, (count,), generator=generator).double() / 5
    return boxes, scores, torch.randint(0, 3, (count,), generator=generator)


@pytest.mark.parametrize("split_threshold", [10000, 0], ids=["all groups at once", "one group at a time"])
@given(count=st.integers(0, 30), seed=st.integers(0, 10**6), threshold=st.sampled_from([0.3, 0.5, 0.7]))
def test_equals_the_naive_implementation(split_threshold, count, seed, threshold):
    boxes, scores, groups = random_case(count, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nms, "SPLIT_THRESHOLD", split_threshold)
        assert batched_nms(boxes, scores, groups, threshold).tolist() == naive(boxes, scores, groups, threshold)


def test_a_box_with_iou_equal_to_the_threshold_is_kept():
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.0]])
    scores, groups = torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64)
    assert batched_nms(boxes, scores, groups, 0.5).tolist() == [0, 1]
    assert batched_nms(boxes, scores, groups, 0.49).tolist() == [0]


def test_does_not_modify_the_boxes():
    boxes, scores, groups = random_case(10, 0)
    before = boxes.clone()
    batched_nms(boxes, scores, groups, 0.5)
    assert torch.equal(boxes, before)
