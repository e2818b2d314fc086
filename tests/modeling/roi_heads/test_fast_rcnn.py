import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference_single_image
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch.testing import assert_close
from torchvision.ops import generalized_box_iou

from flash_internimage.modeling.box_regression import BoxTransform
from flash_internimage.modeling.roi_heads.fast_rcnn import BoxPredictor, class_deltas, select_detections
from flash_internimage.structures.boxes import PreciseBoxes

SIZE = (50, 60)
NUM_CLASSES = 3


def predictor(**changes: object) -> BoxPredictor:
    transform = BoxTransform((0.1, 0.1, 0.2, 0.2))
    return BoxPredictor(ShapeSpec(channels=4), transform, num_classes=NUM_CLASSES, **changes)


def random_boxes(count: int) -> torch.Tensor:
    corners = torch.rand(count, 2) * 30
    return torch.cat([corners, corners + 1 + torch.rand(count, 2) * 30], dim=1)


def regions(classes: list[int], boxes: torch.Tensor, targets: torch.Tensor) -> Instances:
    return Instances(SIZE, proposal_boxes=PreciseBoxes(boxes), gt_boxes=PreciseBoxes(targets), gt_classes=torch.tensor(classes))


def test_class_deltas():
    deltas = torch.arange(24.0).view(2, 12)
    assert class_deltas(deltas, torch.tensor([2, 0])).tolist() == [[8, 9, 10, 11], [12, 13, 14, 15]]
    assert class_deltas(deltas[:0], torch.zeros(0, dtype=torch.int64)).shape == (0, 4)
    assert torch.equal(class_deltas(deltas[:, :4], torch.tensor([2, 0])), deltas[:, :4])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("per_class", [True, False], ids=["class-specific", "class-agnostic"])
def test_detections_equal_detectron2(seed, per_class):
    torch.manual_seed(seed)
    boxes = torch.cat([random_boxes(40) - 5 for _ in range(NUM_CLASSES if per_class else 1)], dim=1)
    scores = torch.randn(40, NUM_CLASSES + 1).softmax(dim=1)
    theirs, their_regions = fast_rcnn_inference_single_image(boxes.clone(), scores, SIZE, 0.1, 0.5, 20)
    ours, our_regions = select_detections(boxes, scores, SIZE, 0.1, 0.5, 20)
    assert our_regions.tolist() == their_regions.tolist()
    assert_close(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
    assert ours.scores.tolist() == theirs.scores.tolist()
    assert ours.pred_classes.tolist() == theirs.pred_classes.tolist()


def test_scores_at_the_threshold_and_non_finite_values_give_no_detections():
    boxes = torch.tensor([[0.0, 0, 9, 9], [20, 20, 30, 30], [torch.nan, 0, 9, 9], [0, 20, 9, 30]]).repeat(1, NUM_CLASSES)
    scores = torch.tensor([[0.5, 0, 0, 0.5], [0.6, 0, 0, 0.4], [0.9, 0, 0, 0.1], [torch.nan, 0, 0, 0]])
    detections, found = select_detections(boxes, scores, SIZE, 0.5, 0.5, 100)
    assert found.tolist() == [1]
    assert detections.scores.tolist() == pytest.approx([0.6])


def test_no_regions():
    empty = torch.zeros(0, 4 * NUM_CLASSES), torch.zeros(0, NUM_CLASSES + 1)
    assert len(select_detections(*empty, SIZE, 0.05, 0.5, 100)[0]) == 0


def test_l1_loss_by_hand():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]] * 4)
    targets = boxes.clone()
    targets[0] += torch.tensor([1.0, 0.0, 1.0, 0.0])  # 0.1 widths, which is a delta of 1
    deltas = torch.full((4, 4 * NUM_CLASSES), 7.0)
    deltas[0, 8:12] = torch.tensor([0.25, 0.0, 0.0, 0.5])
    loss = predictor().box_reg_loss(boxes, targets, deltas, torch.tensor([2, 3, 3, 3]))
    # Divided by all four regions, one of which is positive; background is class 3.
    assert_close(loss, torch.tensor((0.75 + 0.5) / 4))


def test_giou_loss_is_computed_on_unclipped_decoded_boxes():
    head = predictor(box_reg_loss_type="giou", box_reg_loss_weight=10.0)
    boxes, targets = random_boxes(5) + 40, random_boxes(5) + 40
    logits, deltas = torch.randn(5, NUM_CLASSES + 1), torch.randn(5, 4 * NUM_CLASSES)
    classes = torch.tensor([0, 1, 2, 3, 3])
    with EventStorage():
        losses = head.losses((logits, deltas), [regions(classes.tolist(), boxes, targets)])
    decoded = head.box2box_transform.apply_deltas(deltas, boxes).view(5, NUM_CLASSES, 4)[[0, 1, 2], [0, 1, 2]]
    expected = 10 * (1 - generalized_box_iou(decoded, targets[:3]).diagonal()).sum() / 5
    assert_close(losses["loss_box_reg"], expected)
    assert_close(losses["loss_cls"], torch.nn.functional.cross_entropy(logits, classes))


@pytest.mark.parametrize("kind", ["l1", "giou"])
@pytest.mark.parametrize("classes", [[3, 3], []], ids=["background only", "no regions"])
def test_without_positives_the_loss_is_zero_and_every_parameter_gets_a_gradient(kind, classes):
    head = predictor(box_reg_loss_type=kind)
    boxes = random_boxes(len(classes))
    predictions = head(torch.randn(len(classes), 4))
    image = Instances(SIZE, proposal_boxes=PreciseBoxes(boxes), gt_classes=torch.tensor(classes, dtype=torch.int64))
    with EventStorage():
        losses = head.losses(predictions, [image])
    assert losses["loss_box_reg"] == 0
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


def test_inference_of_several_images():
    head = predictor(test_score_thresh=0.0, test_topk_per_image=3).double()
    proposals = [regions([3] * n, random_boxes(n).double(), random_boxes(n)) for n in (4, 0, 2)]
    with torch.no_grad():
        detections, found = head.inference(head(torch.randn(6, 4, dtype=torch.float64)), proposals)
    assert [len(image) for image in detections] == [3, 0, 3]
    assert [len(index) for index in found] == [3, 0, 3]
    assert detections[0].pred_boxes.tensor.dtype == torch.float64


@pytest.mark.parametrize("autocast", [False, True], ids=["half-precision predictions", "autocast"])
def test_half_precision_logits_are_ranked_in_the_precision_of_the_boxes(autocast):
    head = predictor(test_score_thresh=0.0, test_topk_per_image=-1)
    proposals = [regions([3] * 50, random_boxes(50), random_boxes(50)) for _ in range(2)]
    logits, deltas = torch.randn(100, 4).bfloat16(), torch.randn(100, 12).bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        detections, found = head.inference((logits, deltas), proposals)
    expected, expected_found = head.inference((logits.float(), deltas.float()), proposals)
    for image, expected_image in zip(detections, expected, strict=True):
        assert image.scores.dtype == torch.float32
        assert_close(image.scores, expected_image.scores, rtol=0, atol=0)
    assert [index.tolist() for index in found] == [index.tolist() for index in expected_found]


def test_unknown_box_reg_loss_type():
    with pytest.raises(ValueError, match="box_reg_loss_type must be 'l1' or 'giou', got 'diou'"):
        predictor(box_reg_loss_type="diou")
