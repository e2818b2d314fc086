import math

import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from flash_internimage.modeling.box_regression import BoxTransform, decode_boxes, encode_boxes

STDS = (0.1, 0.1, 0.2, 0.2)


def random_boxes(count: int) -> torch.Tensor:
    corners = torch.rand(count, 2, dtype=torch.float64) * 100
    return torch.cat([corners, corners + 1 + torch.rand(count, 2, dtype=torch.float64) * 50], dim=1)


def test_by_hand():
    # A 10 x 20 box centered on (5, 10): shift by half its width and a tenth of its height, double width, half height.
    boxes = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    deltas = torch.tensor([[5.0, 1.0, math.log(2) / 0.2, -math.log(2) / 0.2]])
    expected = torch.tensor([[0.0, 7.0, 20.0, 17.0]])
    assert_close(decode_boxes(boxes, deltas, STDS), expected)
    assert_close(encode_boxes(boxes, expected, STDS), deltas)


def test_decoding_inverts_encoding():
    boxes, targets = random_boxes(50), random_boxes(50)
    assert_close(decode_boxes(boxes, encode_boxes(boxes, targets, STDS), STDS), targets, rtol=1e-12, atol=1e-12)


def test_equals_detectron2_for_sides_within_the_limits():
    boxes, deltas = random_boxes(20).float(), torch.randn(20, 12)
    theirs = Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))
    assert_close(decode_boxes(boxes, deltas, STDS), theirs.apply_deltas(deltas, boxes))
    assert_close(encode_boxes(boxes, boxes.flip(0), STDS), theirs.get_deltas(boxes, boxes.flip(0)))


@pytest.mark.parametrize(("log_ratio", "factor"), [(100.0, 62.5), (-100.0, 1 / 62.5), (math.log(62.5), 62.5)])
def test_growth_and_shrinking_are_limited(log_ratio, factor):
    boxes = torch.tensor([[10.0, 10.0, 20.0, 20.0]], dtype=torch.float64)
    x1, y1, x2, y2 = decode_boxes(boxes, torch.tensor([[0, 0, log_ratio, log_ratio]]).double(), (1.0,) * 4)[0]
    assert_close(torch.stack([x2 - x1, y2 - y1]), torch.full((2,), 10 * factor, dtype=torch.float64))


@given(classes=st.integers(1, 4), count=st.integers(0, 3))
def test_each_class_is_decoded_independently(classes, count):
    boxes, deltas = random_boxes(count), torch.randn(count, 4 * classes, dtype=torch.float64)
    separately = [decode_boxes(boxes, deltas[:, 4 * k : 4 * k + 4], STDS) for k in range(classes)]
    assert_close(decode_boxes(boxes, deltas, STDS), torch.cat(separately, dim=1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_result_has_the_wider_dtype(dtype):
    boxes = torch.tensor([[1000.0, 1000.0, 1001.0, 1001.0]])
    decoded = decode_boxes(boxes, torch.zeros(1, 4, dtype=dtype), STDS)
    assert decoded.dtype == torch.promote_types(dtype, torch.float32)
    assert decoded.tolist() == boxes.tolist()


@pytest.mark.parametrize("stds", [(0.1, 0.1, 0.2), (0.1, 0.1, 0.2, 0.0)])
def test_invalid_stds(stds):
    with pytest.raises(ValueError, match="BoxTransform: stds must be four positive numbers"):
        BoxTransform(stds)


def test_weights_are_the_reciprocals_of_stds():
    assert BoxTransform((0.1, 0.1, 0.2, 0.2)).weights == (10.0, 10.0, 5.0, 5.0)
