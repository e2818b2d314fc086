"""Multiply-adds equal those that can be computed by hand."""

from flash_internimage.analysis.complexity import count_flops
from flash_internimage.analysis.parts import PARTS
from flash_internimage.cli.analyze import build


def test_multiply_adds_of_a_detector(nano):
    flops = count_flops(nano, 64, 96)
    assert flops[""] == sum(flops[part] for part in PARTS)
    # The pyramid: 1 x 1 and 3 x 3 convolutions to 64 channels on maps of 16 x 24, 8 x 12, 4 x 6, 2 x 3 cells.
    cells = [16 * 24, 8 * 12, 4 * 6, 2 * 3]
    lateral = sum(n * width * 64 for n, width in zip(cells, [32, 64, 128, 256], strict=True))
    norms = 2 * sum(n * 64 for n in cells) * 5  # fvcore counts five operations an element,
    upsampling = sum(n * 64 for n in cells[:-1])  # and one here
    output = sum(n * 64 * 64 * 9 for n in cells)
    assert flops["neck"] == lateral + norms + upsampling + output
    # Proposals: a 3 x 3 convolution, and three scores and twelve offsets from it, on these maps and one of 1 x 2.
    assert flops["proposals"] == sum([*cells, 2]) * 64 * (64 * 9 + 15)


def test_multiply_adds_of_a_detector_of_detectron2(repository):
    model = build(str(repository / "configs/shapes/retinanet_flash_internimage_nano.py"))
    counted = count_flops(model, 64, 96)
    # The head: two towers of two 3 x 3 convolutions of 64 channels, then 9 anchors of 4 classes and 4 deltas each, on
    # feature maps of 8 x 12, 4 x 6, 2 x 3, 1 x 2 and 1 x 1 pixels.
    assert counted["heads"] == (96 + 24 + 6 + 2 + 1) * 64 * 9 * (4 * 64 + 9 * (4 + 4))
    assert counted[""] == sum(counted[part] for part in PARTS)
