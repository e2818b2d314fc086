import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN

from flash_internimage.modeling import FlashInternImage

SMALL = {"channels": 16, "depths": (1, 2, 1, 1), "groups": (1, 2, 4, 8)}


def test_output_shape():
    net = FlashInternImage(**SMALL)
    assert net.output_shape() == {
        "res2": ShapeSpec(channels=16, stride=4),
        "res3": ShapeSpec(channels=32, stride=8),
        "res4": ShapeSpec(channels=64, stride=16),
        "res5": ShapeSpec(channels=128, stride=32),
    }
    assert net.size_divisibility == 32


def test_works_with_detectron2_fpn():
    features = FPN(FlashInternImage(**SMALL), ["res2", "res3", "res4", "res5"], 8)(torch.randn(1, 3, 64, 64))
    assert {name: tuple(feature.shape) for name, feature in features.items()} == {
        "p2": (1, 8, 16, 16),
        "p3": (1, 8, 8, 8),
        "p4": (1, 8, 4, 4),
        "p5": (1, 8, 2, 2),
    }
