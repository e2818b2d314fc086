import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch.autograd import gradcheck
from torch.testing import assert_close
from torchvision.ops import generalized_box_iou

from flash_internimage.structures.boxes import PreciseBoxes, clip_boxes, generalized_iou

# Not representable in float32.
THIRD = torch.tensor([[1 / 3, 2 / 3, 10 / 3, 20 / 3], [0, 0, 1, 1]], dtype=torch.float64)


@pytest.mark.parametrize(
    "copy",
    [
        lambda boxes: boxes,
        lambda boxes: boxes.clone(),
        lambda boxes: boxes.to(torch.device("cpu")),
        lambda boxes: boxes[:],
        lambda boxes: boxes[torch.tensor([True, True])],
        lambda boxes: PreciseBoxes.cat([boxes[0], boxes[1]]),
        lambda boxes: Instances.cat([Instances((9, 9), b=boxes[:1]), Instances((9, 9), b=boxes[1:])]).b,
    ],
    ids=["constructor", "clone", "to", "slice", "mask", "cat", "instances"],
)
def test_every_copy_keeps_double_precision(copy):
    result = copy(PreciseBoxes(THIRD))
    assert isinstance(result, PreciseBoxes)
    assert torch.equal(result.tensor, THIRD)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_other_dtypes_become_float32_as_in_detectron2(dtype):
    tensor = torch.tensor([[1, 2, 3, 4]], dtype=dtype)
    assert PreciseBoxes(tensor).tensor.dtype == Boxes(tensor).tensor.dtype == torch.float32


def test_no_boxes():
    assert PreciseBoxes(torch.empty(0, dtype=torch.float64)).tensor.shape == (0, 4)
    assert PreciseBoxes.cat([]).tensor.shape == (0, 4)


def test_clip_equals_detectron2_and_does_not_modify_its_input():
    boxes = torch.tensor([[-1.0, -2.0, 5.0, 6.0], [2.0, 1.0, 30.0, 40.0]])
    clipped = clip_boxes(boxes, (8, 10))
    assert clipped.tolist() == [[0, 0, 5, 6], [2, 1, 10, 8]]
    assert boxes[0, 0] == -1
    reference = Boxes(boxes.clone())
    reference.clip((8, 10))
    assert_close(clipped, reference.tensor)


def random_boxes(count: int) -> torch.Tensor:
    corners = torch.rand(count, 2, dtype=torch.float64) * 100
    return torch.cat([corners, corners + 1 + torch.rand(count, 2, dtype=torch.float64) * 60], dim=1)


@pytest.mark.parametrize(
    ("box", "expected"),
    [((0, 0, 2, 2), 1.0), ((2, 0, 4, 2), 0.0), ((4, 0, 6, 2), -1 / 3), ((0, 0, 1, 2), 0.5), ((1, 1, 3, 3), 1 / 7 - 2 / 9)],
    ids=["same", "side by side", "apart", "half", "a shared corner"],
)
def test_generalized_iou_by_hand(box, expected):
    other = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    assert_close(generalized_iou(torch.tensor([box]).float(), other), torch.tensor([expected]))


def test_generalized_iou_of_all_pairs_equals_torchvision():
    boxes1, boxes2 = random_boxes(30), random_boxes(40)
    expected = generalized_box_iou(boxes1, boxes2)
    assert_close(generalized_iou(boxes1[:, None], boxes2[None]), expected)
    assert (expected < 0).any()
    assert (expected > 0).any()


def test_gradient_of_generalized_iou():
    assert gradcheck(generalized_iou, (random_boxes(5).requires_grad_(), random_boxes(5)))


@pytest.mark.parametrize(
    ("box", "other"),
    [
        ([3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 3.0, 3.0]),
        ([3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 4.0, 4.0]),
        ([5.0, 5.0, 4.0, 4.0], [3.0, 3.0, 4.0, 4.0]),
    ],
    ids=["two points", "a point in a pixel", "swapped corners"],
)
def test_boxes_without_area_have_finite_values_and_gradients(box, other):
    box = torch.tensor(box, requires_grad=True)
    value = generalized_iou(box, torch.tensor(other))
    value.backward()
    assert value.isfinite()
    assert box.grad.isfinite().all()


def test_a_box_without_width_still_has_a_gradient_to_grow():
    box = torch.tensor([3.0, 0.0, 3.0, 4.0], requires_grad=True)
    generalized_iou(box, torch.tensor([2.0, 0.0, 4.0, 4.0])).backward()
    assert box.grad[0] < 0 < box.grad[2]


def test_generalized_iou_of_nan_is_nan():
    assert generalized_iou(torch.full((1, 4), torch.nan), torch.zeros(1, 4)).isnan().all()


def test_clip_to_the_images_of_a_batch_equals_clip_to_each_image():
    boxes = torch.randn(2, 3, 5, 4) * 100
    boxes[0, 0, 0, 0] = float("nan")
    sizes = [(30, 50), (70, 20)]
    expected = torch.stack([clip_boxes(image, size) for image, size in zip(boxes, sizes, strict=True)])
    for image, size in zip(boxes, sizes, strict=True):
        assert_close(clip_boxes(image, torch.tensor(size)), clip_boxes(image, size), equal_nan=True, rtol=0, atol=0)
    assert_close(clip_boxes(boxes[:, 0], torch.tensor(sizes)), expected[:, 0], equal_nan=True, rtol=0, atol=0)
