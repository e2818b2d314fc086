"""Comparison of a file's detections with those of its model."""

import numpy as np
import pytest
import torch
from torch import nn

from flash_internimage.export import verification
from flash_internimage.export.metadata import Metadata
from flash_internimage.export.verification import TOLERANCE, VerificationError, compare, example_batches, tolerance_of, verify


@pytest.fixture
def metadata():
    return Metadata(
        format="onnx",
        target="onnxruntime",
        family="Mask R-CNN",
        class_names=["a"],
        channel_order="RGB",
        pixel_mean=[0.0] * 3,
        pixel_std=[1.0] * 3,
        short_side=128,
        long_side=192,
        size_divisibility=32,
        smallest_side=64,
        height=None,
        width=None,
        batch=2,
        precision="fp32",
        has_masks=True,
    )


def outputs(boxes, scores, classes, counts):
    """Outputs for one image, with a row of padding."""
    boxes, scores, classes = [*boxes, [0] * 4], [*scores, 0.0], [*classes, 0]
    masks = torch.full((1, len(scores), 2, 2), 0.25)
    boxes, scores, classes = (torch.tensor([values]) for values in (boxes, scores, classes))
    return boxes.float(), scores, classes, torch.tensor([counts]), masks


def test_detections_are_matched_in_any_order_and_padding_is_ignored():
    expected = outputs([[0, 0, 9, 9], [5, 5, 8, 8], [7, 7, 7, 7]], [0.9, 0.8, 0.5], [0, 1, 0], 2)
    given = outputs([[5, 5, 8, 8.0625], [0, 0, 9, 9], [1, 1, 1, 1]], [0.8, 0.9, 0.1], [1, 0, 1], 2)
    comparison = compare(expected, given, "images", TOLERANCE)
    assert comparison == verification.Comparison("images", 2, 0, box=0.0625, score=0.0, mask=0.0)
    assert comparison.is_within(TOLERANCE)


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(outputs([[0, 0, 9, 9], [0, 0, 9, 9]], [0.9, 0.9], [0, 0], 2), id="one detection for two"),
        pytest.param(outputs([[0, 0, 9, 9], [5, 5, 8, 8]], [0.9, 0.8], [0, 0], 2), id="another class"),
        pytest.param(outputs([[0, 0, 9, 9], [5, 5, 8, 9]], [0.9, 0.8], [0, 1], 2), id="another box"),
        pytest.param(outputs([[0, 0, 9, 9], [5, 5, 8, 8]], [0.9, 0.7], [0, 1], 2), id="another score"),
        pytest.param(outputs([[0, 0, 9, 9], [5, 5, 8, 8]], [0.9, 0.8], [0, 1], 1), id="one less"),
    ],
)
def test_a_difference_is_a_detection_without_a_partner(given):
    expected = outputs([[0, 0, 9, 9], [5, 5, 8, 8]], [0.9, 0.8], [0, 1], 2)
    comparison = compare(expected, given, "images", TOLERANCE)
    assert comparison.unmatched > 0
    assert not comparison.is_within(TOLERANCE)


@pytest.mark.parametrize(
    ("scores", "unmatched"),
    [([0.9, 0.5, 0.3, 0.3], 0), ([0.9, 0.5, 0.4, 0.3], 2), ([0.9, 0.3, 0.3, 0.3], 2)],
    ids=["the lowest score", "not the lowest score", "the upper half"],
)
def test_the_lowest_scores_may_lose_their_place_where_all_rows_are_taken(scores, unmatched):
    expected = outputs([[i, i, i + 5, i + 5] for i in range(4)], scores, [0] * 4, 4)
    given = [field.clone() for field in expected]
    given[2][0, 2 if scores[1] > 0.3 else 1] = 1
    expected, given = ([field if field.dim() == 1 else field[:, :4] for field in fields] for fields in (expected, given))
    assert compare(expected, given, "images", TOLERANCE).unmatched == unmatched


@pytest.mark.parametrize(("precision", "relative"), [("fp16", 2**-6), ("bf16", 2**-3)])
def test_half_precision_allows_for_thirty_two_roundings(precision, relative):
    tolerance = tolerance_of(precision)
    assert tolerance.score == 1e-3 + relative
    assert tolerance.of_boxes(np.array([[0, 0, 100, 50]])) == pytest.approx([0.1 + 100 * relative])
    assert tolerance_of("fp32") == TOLERANCE


def test_batches_have_two_sizes_and_the_smallest_with_images_that_are_smaller(metadata):
    batches = list(example_batches(metadata))
    assert [tuple(images.shape) for images, _ in batches] == [(2, 3, 96, 128), (2, 3, 160, 96), (2, 3, 64, 64)]
    assert torch.cat([sizes for _, sizes in batches]).tolist() == [
        *([96, 128], [89, 123]),
        *([153, 91], [146, 86]),
        *([50, 54], [43, 49]),
    ]


class _Constant(nn.Module):
    """A detector with the same detections for all images."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def forward(self, images, sizes):
        return [field.repeat(len(images), *[1] * (field.dim() - 1)) for field in self.found]


@pytest.mark.parametrize(
    ("expected", "given", "message"),
    [
        ((0.9, 1), (0.9, 1), None),
        ((0.9, 1), (0.8, 1), "should be those of the model, up to 0.1 px for boxes, .* try another --target"),
        ((0.9, 0), (0.9, 0), "the model finds nothing in the images of the verification"),
    ],
    ids=["the same detections", "another score", "no detections"],
)
def test_verdict(metadata, monkeypatch, expected, given, message):
    ours, theirs = (_Constant(outputs([[0, 0, 9, 9]], [score], [0], count)) for score, count in (expected, given))
    monkeypatch.setattr(verification, "load", lambda path, runtime=None: (theirs, metadata))
    lines = []
    if message is None:
        assert len(list(verify(ours, "model.onnx"))) == 3
        return
    with pytest.raises(VerificationError, match=message):
        lines.extend(verify(ours, "model.onnx"))
