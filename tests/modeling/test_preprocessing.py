"""Normalization and padding of a batch, against the padding of detectron2's main branch, whose version 0.6 lacks a part."""

import pytest
import torch
from detectron2.modeling import Backbone
from detectron2.structures import ImageList
from torch.testing import assert_close

from flash_internimage.modeling.preprocessing import normalize_and_pad, normalize_and_pad_batch, padding_mask
from tests.modeling.detectors import build, image
from tests.projects.dino.small import small_dino

MEAN, STD = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1), torch.tensor([2.0, 4.0, 8.0]).view(3, 1, 1)
SIZES = [(33, 20), (20, 70)]


class Identity(Backbone):
    """A backbone as in detectron2 0.6, without ``padding_constraints``."""

    size_divisibility = 32

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"p2": images}


def constrained(**constraints: int) -> Backbone:
    """A backbone as in newer versions of detectron2, where the attribute is a property."""
    return type("Constrained", (Identity,), {"padding_constraints": property(lambda self: constraints)})()


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        pytest.param(Identity(), (64, 96), id="no attribute"),
        pytest.param(constrained(), (64, 96), id="no constraints"),
        pytest.param(constrained(square_size=0), (64, 96), id="no square"),
        pytest.param(constrained(size_divisibility=50), (50, 100), id="another divisibility"),
        pytest.param(constrained(square_size=128), (128, 128), id="square"),
        pytest.param(constrained(square_size=100), (128, 128), id="square rounded up to the divisibility"),
        pytest.param(constrained(square_size=100, size_divisibility=0), (100, 100), id="square without divisibility"),
    ],
)
@pytest.mark.parametrize("count", [1, 2], ids=["one image", "two images"])
def test_batches_have_the_size_that_the_backbone_needs(backbone, expected, count):
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in SIZES[2 - count :]]
    batch = normalize_and_pad(images, MEAN, STD, backbone)
    if count == 1 and not getattr(backbone, "padding_constraints", {}).get("square_size"):
        expected = (50 if expected[0] == 50 else 32, expected[1])
    assert batch.tensor.shape == (count, 3, *expected)
    assert batch.image_sizes == SIZES[2 - count :]
    for tensor, pixels in zip(batch.tensor, images, strict=True):
        height, width = pixels.shape[1:]
        assert torch.equal(tensor[:, :height, :width], (pixels - MEAN) / STD)
        assert not tensor[:, height:].any()
        assert not tensor[:, :, width:].any()


@pytest.mark.parametrize("constraints", [{}, {"size_divisibility": 50}, {"square_size": 100}, {"square_size": 128}], ids=str)
def test_padding_equals_detectron2(constraints):
    if not hasattr(Backbone, "padding_constraints"):
        pytest.skip("this version of detectron2 has no padding_constraints")
    images = [torch.rand(3, *size) for size in SIZES]
    expected = ImageList.from_tensors([(x - MEAN) / STD for x in images], 32, padding_constraints=constraints)
    batch = normalize_and_pad(images, MEAN, STD, constrained(**constraints))
    assert torch.equal(batch.tensor, expected.tensor)
    assert batch.image_sizes == expected.image_sizes


def test_an_image_larger_than_the_square_is_refused():
    with pytest.raises(ValueError, match="must fit its square_size of 64 pixels, got one of 20 x 70; resize images to fit"):
        normalize_and_pad([torch.zeros(3, *size) for size in SIZES], MEAN, STD, constrained(square_size=64))


@pytest.mark.parametrize("build_model", [lambda: build("mask_rcnn_fpn"), small_dino], ids=["RCNN", "DINO"])
def test_meta_architectures_honor_the_constraints(build_model, monkeypatch):
    model = build_model().eval()
    monkeypatch.setattr(type(model.backbone), "padding_constraints", {"square_size": 128}, raising=False)
    entries = [image(size, []) for size in SIZES]
    assert model.preprocess_image(entries).tensor.shape == (2, 3, 128, 128)
    with torch.no_grad():
        outputs = model(entries)
    assert [output["instances"].image_size for output in outputs] == SIZES


def test_square_padding_of_a_detector_changes_no_detection(monkeypatch):
    model = small_dino().eval()
    entries = [image((64, 64), [])]
    with torch.no_grad():
        (plain,) = model(entries)
        monkeypatch.setattr(type(model.backbone), "padding_constraints", {"square_size": 64}, raising=False)
        (square,) = model(entries)
    assert_close(square["instances"].scores, plain["instances"].scores, rtol=0, atol=0)


def test_the_padding_mask_is_true_outside_each_image():
    masks = padding_mask(torch.tensor([(2, 3), (4, 1)]), (4, 4))
    for mask, (height, width) in zip(masks, [(2, 3), (4, 1)], strict=True):
        for row in range(4):
            for column in range(4):
                assert bool(mask[row, column]) == (row >= height or column >= width)


@pytest.mark.parametrize("constraints", [{}, {"size_divisibility": 50}, {"square_size": 100}], ids=str)
def test_images_in_one_tensor_are_padded_like_a_list_whatever_lies_beyond_their_sizes(constraints):
    pixels = torch.randint(0, 256, (2, 3, 33, 70), dtype=torch.uint8)
    images = [image[:, :height, :width] for image, (height, width) in zip(pixels, SIZES, strict=True)]
    found = normalize_and_pad_batch(pixels, torch.tensor(SIZES), MEAN, STD, constrained(**constraints))
    assert torch.equal(found, normalize_and_pad(images, MEAN, STD, constrained(**constraints)).tensor)
