"""Ids of tracked objects: they stay over the frames, through a frame with a low score and past another object."""

import sys

import pytest
import torch
from detectron2.structures import Boxes, Instances

from flash_internimage.inference.tracking import UNTRACKED, Tracker


def instances(boxes, scores):
    result = Instances((200, 200))
    result.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    result.scores = torch.tensor(scores)
    result.pred_classes = torch.zeros(len(scores), dtype=torch.int64)
    return result


@pytest.fixture
def tracker():
    pytest.importorskip("trackers")
    return Tracker(min_score=0.5, frames_per_second=30)


def box(x, y):
    return [x, y, x + 30, y + 30]


def test_ids_stay_with_moving_objects_in_whatever_order_they_are_detected(tracker):
    ids = []
    for step in range(8):
        boxes, scores = [box(10 + 5 * step, 10), box(150 - 5 * step, 120)], [0.9, 0.8]
        if step % 2:
            boxes, scores = boxes[::-1], scores[::-1]
        found = tracker.update(instances(boxes, scores))
        assert found.scores.tolist() == pytest.approx(scores)
        ids.append(dict(zip(found.scores.mul(10).round().int().tolist(), found.track_ids.tolist(), strict=True)))
    assert ids[0] == {9: UNTRACKED, 8: UNTRACKED}
    assert sorted(ids[1].values()) == [1, 2]
    assert all(frame == ids[1] for frame in ids[1:])


def test_a_low_score_continues_a_track_and_starts_none(tracker):
    for _ in range(3):
        tracker.update(instances([box(10, 10)], [0.9]))
    found = tracker.update(instances([box(11, 10), box(120, 120)], [0.2, 0.2]))
    assert found.track_ids.tolist() == [1]
    assert found.scores.tolist() == pytest.approx([0.2])


def test_an_object_that_returns_keeps_its_id(tracker):
    for _ in range(3):
        tracker.update(instances([box(10, 10)], [0.9]))
    for _ in range(5):
        assert len(tracker.update(instances([], []))) == 0
    assert tracker.update(instances([box(10, 10)], [0.9])).track_ids.tolist() == [1]


def test_the_package_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackers", None)
    message = r"--track needs trackers, which is not installed; pip install trackers \(the extra \[track\]\)"
    with pytest.raises(ValueError, match=message):
        Tracker(0.5, 30)
