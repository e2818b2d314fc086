"""The description in an exported file."""

import dataclasses
import json

import pytest

from flash_internimage.errors import UserError
from flash_internimage.export.metadata import Metadata

METADATA = Metadata(
    format="onnx",
    target="openvino",
    family="DINO",
    class_names=["mug", "ложка"],
    channel_order="RGB",
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    short_side=800,
    long_side=1333,
    size_divisibility=32,
    smallest_side=64,
    height=None,
    width=None,
    batch=1,
    precision="fp32",
    has_masks=False,
    versions={"torch": "2.14.1"},
)


def test_round_trip():
    assert Metadata.from_json(METADATA.to_json(), "model.onnx") == METADATA


def test_masks_are_the_last_output():
    assert METADATA.output_names == ("boxes", "scores", "classes", "counts")
    assert dataclasses.replace(METADATA, has_masks=True).output_names == ("boxes", "scores", "classes", "counts", "masks")


def test_batches_are_padded_to_multiples_from_the_smallest_side():
    assert [METADATA.padded(side) for side in (1, 64, 65, 800)] == [64, 64, 96, 800]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "model.onnx: expected a file that `flash-internimage export` wrote, got one without its metadata"),
        (json.dumps({"layout": 3}), "model.onnx: its metadata has layout 3, this version of flash-internimage reads 2"),
        (json.dumps({"layout": 2, "format": "onnx"}), "model.onnx: its metadata has layout 2"),
    ],
    ids=["none", "a later layout", "incomplete"],
)
def test_other_files_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        Metadata.from_json(text, "model.onnx")
