"""Checks that take minutes (``make export-programs``): dynamic sizes, batches of two and AOTInductor for all families."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from flash_internimage.export import compile_program, export_program, exportable_detector
from flash_internimage.export.runtime import without_guards
from tests.export.small import FAMILIES, build, draw


@pytest.mark.parametrize("family", FAMILIES)
def test_programs_and_packages_equal_their_detector(tmp_path: Path, family: str):
    detector = exportable_detector(build(family))
    program = export_program(detector, batch=2)
    package = torch._inductor.aoti_load_package(compile_program(program, tmp_path / "package.pt2"))
    for images, sizes in [
        draw([(96, 128), (90, 70)], 96, 128),
        draw([(128, 100), (70, 160)], 128, 160),
        draw([(64, 64)] * 2, 64, 64),
    ]:
        expected = detector(images, sizes)
        for call, tolerance in [(without_guards(program), {}), (package, dict(rtol=1e-3, atol=1e-3))]:
            for found, field in zip(call(images, sizes), expected, strict=True):
                assert_close(found, field, **tolerance)
