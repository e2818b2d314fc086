"""Sine encodings equal the formulas for single positions and boxes."""

import math

import torch
from torch.testing import assert_close

from flash_internimage.modeling.detr.position_encoding import SinePositionEncoding, encode_boxes


def by_formula(angle: float, num_features: int, temperature: float) -> list[float]:
    """The features of one angle."""
    features = []
    for index in range(num_features):
        scaled = angle / temperature ** (2 * (index // 2) / num_features)
        features.append(math.sin(scaled) if index % 2 == 0 else math.cos(scaled))
    return features


def test_a_position_is_encoded_relative_to_the_image_without_padding():
    mask = torch.ones(1, 6, 8, dtype=torch.bool)
    mask[:, :5, :7] = False  # 5 rows and 7 columns of image
    encoding = SinePositionEncoding(embed_dim=12, temperature=20.0)(mask, torch.float64)
    assert encoding.shape == (1, 12, 6, 8)
    row, column = 3, 1
    y, x = (row + 1) / (5 + 1e-6) * 2 * math.pi, (column + 1) / (7 + 1e-6) * 2 * math.pi
    expected = by_formula(y, 6, 20.0) + by_formula(x, 6, 20.0)
    assert_close(encoding[0, :, row, column], torch.tensor(expected, dtype=torch.float64))


def test_more_padding_changes_nothing_within_the_image():
    encode = SinePositionEncoding(embed_dim=16)
    small = torch.zeros(1, 5, 7, dtype=torch.bool)
    large = torch.ones(1, 9, 12, dtype=torch.bool)
    large[:, :5, :7] = False
    assert_close(encode(large, torch.float64)[:, :, :5, :7], encode(small, torch.float64))


def test_boxes_are_encoded_y_before_x_then_width_and_height():
    cx, cy, width, height = 0.1, 0.25, 0.6, 0.8
    encoding = encode_boxes(torch.tensor([[[cx, cy, width, height]]], dtype=torch.float64), num_features=8)
    expected = [feature for value in (cy, cx, width, height) for feature in by_formula(value * 2 * math.pi, 8, 10000.0)]
    assert_close(encoding, torch.tensor([[expected]], dtype=torch.float64))


def test_the_dtype_is_the_requested_one():
    mask = torch.zeros(1, 2, 2, dtype=torch.bool)
    for dtype in (torch.float32, torch.float64):
        assert SinePositionEncoding(embed_dim=8)(mask, dtype).dtype == dtype
        assert encode_boxes(torch.rand(1, 1, 4, dtype=dtype), 4).dtype == dtype
