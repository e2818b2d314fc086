import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_loss
from detectron2.structures import BitMasks, Instances
from detectron2.utils.events import EventStorage
from torch.testing import assert_close

from flash_internimage.modeling import MaskHead
from flash_internimage.modeling.roi_heads.mask_head import mask_loss
from flash_internimage.structures.boxes import PreciseBoxes
from flash_internimage.structures.masks import SharedMasks

SIZE = (32, 32)


def head() -> MaskHead:
    return MaskHead(ShapeSpec(channels=4, height=7, width=7), num_classes=3, conv_dims=[4, 4])


def regions(count: int, dtype: torch.dtype = torch.float32) -> Instances:
    image = Instances(
        SIZE, proposal_boxes=PreciseBoxes(torch.tensor([[2.0, 3.0, 28.0, 20.0]] * count, dtype=dtype).view(-1, 4))
    )
    image.gt_classes = torch.arange(count) % 3
    if count > 0:
        masks = BitMasks(torch.rand(2, *SIZE) < 0.5)
        image.gt_masks = SharedMasks(masks, torch.arange(count) % 2, size_divisibility=32)
    return image


def test_loss_by_hand():
    logits = torch.zeros(1, 2, 1, 2)
    logits[0, 1] = torch.tensor([0.3, -0.2])
    loss = mask_loss(logits, torch.tensor([1]), torch.tensor([[[True, False]]]))
    assert_close(loss, (F.softplus(torch.tensor(-0.3)) + F.softplus(torch.tensor(-0.2))) / 2)


def test_loss_equals_detectron2_in_float32():
    images = [regions(3), regions(0), regions(2)]
    mask_head = head().train()
    features = torch.randn(5, 4, 7, 7)
    with EventStorage():
        expected = mask_rcnn_loss(mask_head.layers(features), images)
    assert_close(mask_head(features, images)["loss_mask"], expected)


def test_loss_keeps_double_precision():
    loss = head().double().train()(torch.randn(2, 4, 7, 7, dtype=torch.float64), [regions(2, torch.float64)])
    assert loss["loss_mask"].dtype == torch.float64


def test_without_regions_the_loss_is_zero_and_every_parameter_gets_a_gradient():
    mask_head = head().train()
    loss = mask_head(torch.zeros(0, 4, 7, 7), [regions(0), regions(0)])["loss_mask"]
    loss.backward()
    assert loss == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in mask_head.parameters())


def test_inference_selects_the_mask_of_the_predicted_class():
    mask_head = head().eval()
    features = torch.randn(2, 4, 7, 7)
    classes = torch.tensor([2, 0])
    with torch.no_grad():
        found = mask_head(features, [Instances(SIZE, pred_classes=classes)])[0].pred_masks
        assert_close(found[:, 0], mask_head.layers(features)[[0, 1], classes].sigmoid())


def test_misspelled_argument_raises_an_error():
    with pytest.raises(TypeError, match="num_clases"):
        MaskHead(ShapeSpec(channels=4), num_clases=3, conv_dims=[4])
