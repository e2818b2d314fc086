"""Programs of torch.export: equal to the detector at several sizes, also after saving and loading."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from flash_internimage.errors import UserError
from flash_internimage.export import export_program, exportable_detector
from flash_internimage.export.runtime import without_guards
from tests.export.small import build, draw

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

BATCHES = [draw([(96, 128)], 96, 128), draw([(70, 160)], 128, 160), draw([(64, 40)], 64, 64)]


# Cascade is recorded with dynamic sizes by `make export-programs`: half a minute.
@pytest.mark.slow
@pytest.mark.parametrize(("family", "dynamic"), [("mask_rcnn", True), ("dino", True), ("cascade", False), ("retinanet", True)])
def test_a_program_equals_its_detector_after_saving_and_loading(tmp_path: Path, family: str, dynamic: bool):
    detector = exportable_detector(build(family))
    program = export_program(detector, size=None if dynamic else (96, 128))
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = without_guards(torch.export.load(tmp_path / "model.pt2"))
    for images, sizes in BATCHES if dynamic else BATCHES[:1]:
        expected = detector(images, sizes)
        assert int(expected[3]) > 0
        for found, field in zip(loaded(images, sizes), expected, strict=True):
            assert_close(found, field)


@pytest.mark.slow
def test_a_program_takes_images_without_objects():
    model = build("retinanet")
    model.test_score_thresh = 1.0
    detector = exportable_detector(model)
    found = without_guards(export_program(detector, size=(96, 128)))(*BATCHES[0])
    assert found[3].tolist() == [0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(size=(96, 100)), r"multiples of 32 and at least 32 pixels, got batch=1 and size=96 x 100"),
        (dict(size=(96, 0)), r"at least 32 pixels, got batch=1 and size=96 x 0"),
        (dict(size=(96, 96), batch=0), r"batch should be at least 1"),
    ],
)
def test_sizes_that_no_program_takes_are_refused(arguments: dict, message: str):
    with pytest.raises(UserError, match=message):
        export_program(exportable_detector(build("dino")), **arguments)
