"""Matching of detections to ground truth, in cases worked out by hand."""

import numpy as np
import pytest

from flash_internimage.evaluation.report_matching import Boxes, Kind, confusion, match

CUP, FORK = 0, 1


def boxes(*rows):
    """Convert rows of (image, class, box, score or "crowd")."""
    entries = [
        {"image_id": image, "category_id": class_, "bbox": box, "iscrowd": score == "crowd"}
        | ({} if score == "crowd" else {"score": score})
        for image, class_, box, score in rows
    ]
    return Boxes.from_coco(entries, {i: i for i in range(9)}, {CUP: CUP, FORK: FORK})


def shifted(by, x=10):
    """Return a square of side 10, shifted horizontally: by 1 its IoU with the original is 0.82, by 4 it is 0.43, by 9 0.05."""
    return [x + by, 10, 10, 10]


OBJECT = (0, CUP, shifted(0), 1.0)


@pytest.mark.parametrize(
    ("detections", "objects", "kinds"),
    [
        pytest.param([(0, CUP, shifted(1), 0.9)], [OBJECT], [Kind.CORRECT], id="correct"),
        pytest.param([(0, CUP, shifted(1), 0.9), (0, CUP, shifted(0), 0.8)], [OBJECT], [0, Kind.DUPLICATE], id="duplicate"),
        pytest.param([(0, CUP, shifted(0), 0.8), (0, CUP, shifted(1), 0.9)], [OBJECT], [Kind.DUPLICATE, 0], id="by score"),
        pytest.param([(0, CUP, shifted(4), 0.9)], [OBJECT], [Kind.POOR_LOCALIZATION], id="low IoU"),
        pytest.param([(0, CUP, shifted(9), 0.9)], [OBJECT], [Kind.BACKGROUND], id="very low IoU"),
        pytest.param([(1, CUP, shifted(0), 0.9)], [OBJECT], [Kind.BACKGROUND], id="another image"),
        pytest.param([(0, FORK, shifted(1), 0.9)], [OBJECT], [Kind.WRONG_CLASS], id="another class"),
        pytest.param(
            [(0, FORK, shifted(0), 0.9), (0, CUP, shifted(1), 0.6)],
            [OBJECT],
            [Kind.BACKGROUND, 0],
            id="own class is matched first",
        ),
        pytest.param([(0, FORK, shifted(1), 0.4)], [OBJECT], [Kind.BACKGROUND], id="another class below the threshold"),
        pytest.param([(0, CUP, shifted(1), 0.9)], [(0, CUP, [0, 0, 50, 50], "crowd")], [Kind.IGNORED], id="crowd"),
        pytest.param([(0, FORK, shifted(1), 0.9)], [(0, CUP, [0, 0, 50, 50], "crowd")], [4], id="crowd of another class"),
        pytest.param([(0, CUP, shifted(1), 0.9)], [], [Kind.BACKGROUND], id="no objects"),
        pytest.param([], [OBJECT], [], id="no detections"),
    ],
)
def test_kinds(detections, objects, kinds):
    assert match(boxes(*detections), boxes(*objects), 3, min_score=0.5).kind.tolist() == kinds


def test_detection_is_matched_to_the_free_object_with_the_highest_iou():
    objects = boxes((0, CUP, shifted(0), 1.0), (0, CUP, shifted(2), 1.0))
    detections = boxes((0, CUP, shifted(1.2), 0.7), (0, CUP, shifted(1.8), 0.9))
    matches = match(detections, objects, 1, min_score=0.5)
    assert matches.object.tolist() == [0, 1]
    assert matches.detected.all()


def test_detection_below_the_threshold():
    matches = match(boxes((0, CUP, shifted(1), 0.3)), boxes(OBJECT), 1, min_score=0.5)
    assert (matches.kind.tolist(), matches.above_threshold.tolist()) == ([Kind.CORRECT], [False])
    assert not matches.detected[0]
    assert matches.best_iou[0] == 0


def test_confusion():
    objects = boxes(OBJECT, (1, CUP, shifted(0), 1.0), (2, FORK, shifted(0), 1.0), (2, CUP, [0, 0, 90, 90], "crowd"))
    detections = boxes(
        (0, CUP, shifted(1), 0.9),
        (0, CUP, shifted(0), 0.8),
        (1, FORK, shifted(1), 0.9),
        (2, CUP, shifted(30), 0.9),
        (0, FORK, shifted(40), 0.9),
        (0, FORK, shifted(40), 0.4),
    )
    counts = confusion(detections, objects, match(detections, objects, 3, min_score=0.5), 2)
    np.testing.assert_array_equal(counts, [[1, 1, 0], [0, 0, 1], [1, 1, 0]])


def test_images_without_objects_and_detections():
    matches = match(boxes((7, CUP, shifted(1), 0.9)), boxes((7, CUP, shifted(0), 1.0)), 9, min_score=0.5)
    assert matches.kind.tolist() == [Kind.CORRECT]


def test_predictions_of_another_dataset_are_rejected():
    with pytest.raises(ValueError, match="names image or category 77"):
        Boxes.from_coco([{"image_id": 77, "category_id": 0, "bbox": [0, 0, 1, 1]}], {1: 0}, {0: 0})
