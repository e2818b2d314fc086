import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch.testing import assert_close

from flash_internimage.structures.boxes import PreciseBoxes, clip_boxes

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
