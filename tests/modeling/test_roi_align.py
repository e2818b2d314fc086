"""RoIAlign by attention equals that of torchvision."""

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import roi_align as torchvision_roi_align

from flash_internimage.modeling.roi_align import roi_align

SCALE = 1 / 8


def random_rois(count: int, dtype: torch.dtype) -> torch.Tensor:
    """RoIs of up to 200 x 200 pixels on two images of 160 x 240, many of them partly or entirely outside."""
    corners = torch.rand(count, 2, dtype=dtype) * torch.tensor([300.0, 220.0], dtype=dtype) - 40
    sizes = torch.rand(count, 2, dtype=dtype) ** 2 * 200
    return torch.cat([torch.randint(0, 2, (count, 1)).to(dtype), corners, corners + sizes], dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("output_size", [1, 7])
def test_equals_torchvision(dtype: torch.dtype, output_size: int):
    feature, rois = torch.randn(2, 19, 20, 30, dtype=dtype), random_rois(100, dtype)
    pooled = roi_align(feature, rois, output_size, SCALE)
    assert pooled.dtype == dtype
    # Locations of up to 30 pixels are rounded, and samples change by a few units per pixel.
    tolerance = 100 * torch.finfo(dtype).eps
    reference = torchvision_roi_align(feature, rois, output_size, SCALE, 0, aligned=True)
    assert_close(pooled, reference, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "box",
    [(16, 16, 72, 72), (0, 0, 240, 160), (-9, -9, 3, 3), (-100, 10, -50, 30), (235, 150, 260, 170), (40, 40, 40, 90)],
    ids=["whole bins", "the image", "the corner", "outside", "across the border", "without width"],
)
def test_single_boxes(box: tuple[int, ...]):
    feature, rois = torch.randn(1, 4, 20, 30, dtype=torch.float64), torch.tensor([[0, *box]], dtype=torch.float64)
    assert_close(roi_align(feature, rois, 7, SCALE), torchvision_roi_align(feature, rois, 7, SCALE, 0, aligned=True))


def test_bfloat16_features_are_sampled_at_float32_locations_under_autocast():
    feature, rois = torch.randn(2, 16, 20, 30).bfloat16(), random_rois(50, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        pooled = roi_align(feature, rois, 7, SCALE)
    assert pooled.dtype == torch.bfloat16
    reference = torchvision_roi_align(feature.float(), rois, 7, SCALE, 0, aligned=True)
    assert_close(pooled.float(), reference, rtol=torch.finfo(torch.bfloat16).eps, atol=1e-4)


def test_no_rois():
    assert roi_align(torch.randn(1, 4, 5, 6), torch.zeros(0, 5), 7, SCALE).shape == (0, 4, 7, 7)
