import pytest
import torch
from torch.testing import assert_close

from tests.modeling.detectors import build, image

MEAN, STD = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_images_are_normalized_in_float32_then_padded_with_zeros(dtype: torch.dtype):
    model = build("mask_rcnn_fpn").to(dtype)
    entries = [image((33, 20), []), image((20, 70), [])]
    batch = model.preprocess_image(entries)
    assert batch.tensor.shape == (2, 3, 64, 96)
    assert batch.tensor.dtype == dtype
    assert batch.image_sizes == [(33, 20), (20, 70)]
    expected = (entries[0]["image"] - MEAN[:, None, None]) / STD[:, None, None]
    if dtype == torch.bfloat16:
        # pixel_mean and pixel_std of the model are rounded to bfloat16, by up to one part in 256.
        assert_close(batch.tensor[0, :, :33, :20], expected.to(dtype), rtol=0.02, atol=0.02)
    else:
        assert torch.equal(batch.tensor[0, :, :33, :20], expected.to(dtype))
    assert not batch.tensor[0, :, 33:].any()
    assert not batch.tensor[0, :, :, 20:].any()
