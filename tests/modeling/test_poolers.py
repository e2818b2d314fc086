"""RoI pooling over pyramid levels equals torchvision's RoIAlign on the level of each box."""

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from torch.autograd import gradcheck
from torch.testing import assert_close

from flash_internimage.modeling.poolers import RoIPooler, assign_levels
from flash_internimage.structures.boxes import PreciseBoxes


def square(side: float) -> torch.Tensor:
    return torch.tensor([[3.0, 5.0, 3.0 + side, 5.0 + side]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("side", "level"),
    [(0, 0), (1, 0), (111.99, 0), (112 * (1 - 4e-7), 1), (112, 1), (223.9, 1), (224, 2), (448, 3), (5000, 3)],
)
def test_level_by_size(side, level):
    assert assign_levels(square(side), num_levels=4, finest_size=56).tolist() == [level]


def features(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.randn(2, 3, 64 // 2**level, 96 // 2**level, dtype=dtype) for level in range(3)]


def random_boxes(count: int, dtype: torch.dtype = torch.float32) -> PreciseBoxes:
    corners = torch.rand(count, 2, dtype=dtype) * torch.tensor([200.0, 100.0], dtype=dtype)
    return PreciseBoxes(torch.cat([corners, corners + 1 + torch.rand(count, 2, dtype=dtype) ** 2 * 300], dim=1))


def test_equals_detectron2_in_float32():
    ours = RoIPooler(output_size=7, strides=[4, 8, 16])
    theirs = ROIPooler(7, scales=[1 / 4, 1 / 8, 1 / 16], sampling_ratio=0, pooler_type="ROIAlignV2")
    levels, boxes = features(), [random_boxes(20), random_boxes(11)]
    assert_close(ours(levels, boxes), theirs(levels, boxes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_inference_equals_training(dtype: torch.dtype):
    levels, boxes = [level.to(dtype) for level in features()], [random_boxes(20), random_boxes(11)]
    pooler = RoIPooler(output_size=7, strides=[4, 8, 16])
    with_autograd = pooler(levels, boxes)
    with torch.no_grad():
        pooled = pooler(levels, boxes)
    assert pooled.dtype == dtype
    assert_close(pooled, with_autograd, rtol=10 * torch.finfo(dtype).eps, atol=1e-4)


def test_images_and_levels_without_boxes():
    pooler, levels = RoIPooler(output_size=2, strides=[4, 8, 16]), features()
    small, none = PreciseBoxes(square(10).float()), PreciseBoxes(torch.zeros(0, 4))
    assert pooler(levels, [none, small]).shape == (1, 3, 2, 2)
    assert pooler(levels, [none, none]).shape == (0, 3, 2, 2)


def test_levels_without_boxes_get_zero_gradients():
    levels = [level.requires_grad_() for level in features()]
    pooled = RoIPooler(output_size=2, strides=[4, 8, 16])(levels, [PreciseBoxes(torch.zeros(0, 4))] * 2)
    pooled.sum().backward()
    assert all(level.grad is not None and not level.grad.any() for level in levels)


def test_gradient():
    levels = [torch.randn(1, 1, 4, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    pooler = RoIPooler(output_size=2, strides=[4, 8], finest_size=6)
    boxes = [PreciseBoxes(torch.cat([square(7), square(20)]))]
    assert gradcheck(lambda *levels: pooler(levels, boxes), levels)


def test_half_precision_features_do_not_round_the_boxes():
    levels = [level.bfloat16() for level in features()]
    boxes = [PreciseBoxes(torch.tensor([[200.3, 100.7, 221.9, 117.1]])), PreciseBoxes(torch.zeros(0, 4))]
    pooler = RoIPooler(output_size=7, strides=[4, 8, 16])
    pooled = pooler(levels, boxes)
    assert pooled.dtype == torch.bfloat16
    assert_close(pooled, pooler([level.float() for level in levels], boxes).bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_fixed_number_of_boxes_per_image_is_pooled_like_lists(dtype: torch.dtype):
    levels = [feature.to(dtype) for feature in features()]
    pooler = RoIPooler(output_size=7, strides=[4, 8, 16])
    boxes = torch.stack([random_boxes(30).tensor for _ in range(levels[0].shape[0])])
    boxes[0, 3] = 0  # padding
    assert len(assign_levels(boxes.flatten(0, 1), 3, 56).unique()) > 1
    assert torch.equal(pooler.pool_batch(levels, boxes), pooler(levels, [PreciseBoxes(image) for image in boxes]))
