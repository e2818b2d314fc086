import pytest
import torch
from detectron2.export.flatten import TracingAdapter
from torch.testing import assert_close

from tests.modeling.detectors import FAMILIES, build, image

pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")

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


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trace_gives_the_same_detections_for_other_sizes(family: str):
    model = build(family).eval()
    for predictor in [m for m in model.modules() if hasattr(m, "test_score_thresh")]:
        predictor.test_score_thresh = 0.0
    example, other = (torch.rand(3, *size) * 255 for size in [(64, 96), (130, 70)])

    def detect(model: torch.nn.Module, inputs: list[dict]) -> list:
        return [model.inference(inputs, do_postprocess=False)[0]]

    adapter = TracingAdapter(model, [{"image": example}], inference_func=detect)
    with torch.no_grad():
        traced = torch.jit.trace(adapter, (example,), check_trace=False)
        for pixels in (example, other):
            (expected,) = detect(model, [{"image": pixels}])
            (found,) = adapter.outputs_schema(traced(pixels))
            assert len(found) == len(expected) == 100
            assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor)
            assert_close(found.scores, expected.scores)
            assert_close(found.pred_masks, expected.pred_masks)
