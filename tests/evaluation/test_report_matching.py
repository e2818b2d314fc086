"""Matching by hand: what each detection is, which objects are found, and what they are taken for."""

import numpy as np
import pytest

from flash_internimage.evaluation.report_matching import Boxes, Kind, confusion, match

CUP, FORK = 0, 1


def boxes(*rows):
    """(image, class, box, score or "crowd") of each."""
    entries = [
        {"image_id": image, "category_id": class_, "bbox": box, "iscrowd": score == "crowd"}
        | ({} if score == "crowd" else {"score": score})
        for image, class_, box, score in rows
    ]
    return Boxes.of(entries, {i: i for i in range(9)}, {CUP: CUP, FORK: FORK})


def shifted(by, x=10):
    """A square of side 10, moved: by 1 the IoU with the unmoved is 0.82, by 4 it is 0.43, by 9 it is 0.05."""
    return [x + by, 10, 10, 10]


OBJECT = (0, CUP, shifted(0), 1.0)


@pytest.mark.parametrize(
    ("detections", "objects", "kinds"),
    [
        pytest.param([(0, CUP, shifted(1), 0.9)], [OBJECT], [Kind.CORRECT], id="found"),
        pytest.param([(0, CUP, shifted(1), 0.9), (0, CUP, shifted(0), 0.8)], [OBJECT], [0, Kind.DUPLICATE], id="found twice"),
        pytest.param([(0, CUP, shifted(0), 0.8), (0, CUP, shifted(1), 0.9)], [OBJECT], [Kind.DUPLICATE, 0], id="by score"),
        pytest.param([(0, CUP, shifted(4), 0.9)], [OBJECT], [Kind.BADLY_PLACED], id="not well enough"),
        pytest.param([(0, CUP, shifted(9), 0.9)], [OBJECT], [Kind.BACKGROUND], id="hardly at all"),
        pytest.param([(1, CUP, shifted(0), 0.9)], [OBJECT], [Kind.BACKGROUND], id="in another image"),
        pytest.param([(0, FORK, shifted(1), 0.9)], [OBJECT], [Kind.WRONG_CLASS], id="as another class"),
        pytest.param(
            [(0, FORK, shifted(0), 0.9), (0, CUP, shifted(1), 0.6)], [OBJECT], [Kind.BACKGROUND, 0], id="its class comes first"
        ),
        pytest.param([(0, FORK, shifted(1), 0.4)], [OBJECT], [Kind.BACKGROUND], id="another class, but does not count"),
        pytest.param([(0, CUP, shifted(1), 0.9)], [(0, CUP, [0, 0, 50, 50], "crowd")], [Kind.IGNORED], id="in a crowd"),
        pytest.param([(0, FORK, shifted(1), 0.9)], [(0, CUP, [0, 0, 50, 50], "crowd")], [4], id="in a crowd of others"),
        pytest.param([(0, CUP, shifted(1), 0.9)], [], [Kind.BACKGROUND], id="nothing there"),
        pytest.param([], [OBJECT], [], id="nothing found"),
    ],
)
def test_kinds(detections, objects, kinds):
    assert match(boxes(*detections), boxes(*objects), 3, min_score=0.5).kind.tolist() == kinds


def test_each_detection_takes_the_nearest_object_that_is_free():
    objects = boxes((0, CUP, shifted(0), 1.0), (0, CUP, shifted(2), 1.0))
    detections = boxes((0, CUP, shifted(1.2), 0.7), (0, CUP, shifted(1.8), 0.9))
    matches = match(detections, objects, 1, min_score=0.5)
    assert matches.object.tolist() == [0, 1]
    assert matches.found.all()


def test_detections_that_do_not_count():
    matches = match(boxes((0, CUP, shifted(1), 0.3)), boxes(OBJECT), 1, min_score=0.5)
    assert (matches.kind.tolist(), matches.counted.tolist()) == ([Kind.CORRECT], [False])
    assert not matches.found[0]
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


def test_images_without_anything():
    matches = match(boxes((7, CUP, shifted(1), 0.9)), boxes((7, CUP, shifted(0), 1.0)), 9, min_score=0.5)
    assert matches.kind.tolist() == [Kind.CORRECT]


def test_predictions_of_other_data_are_told():
    with pytest.raises(ValueError, match="names image or category 77"):
        Boxes.of([{"image_id": 77, "category_id": 0, "bbox": [0, 0, 1, 1]}], {1: 0}, {0: 0})
