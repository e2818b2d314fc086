"""Merging of detections: NMS against torchvision and against NumPy on bitmaps, and what the edges of tiles have cut."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import batched_nms

from flash_internimage.structures import WindowMasks
from flash_internimage.views.merging import box_similarity, merge, suppress

SIZE = (40, 60)


def random_boxes(random, count):
    corners = random.uniform(0, 30, (count, 2))
    return np.concatenate([corners, corners + random.uniform(1, 25, (count, 2))], axis=1)


def instances(boxes, scores, classes, is_cut=None, masks=None):
    result = Instances(SIZE)
    result.pred_boxes = Boxes(torch.as_tensor(np.asarray(boxes, dtype=np.float32).reshape(-1, 4)))
    result.scores = torch.as_tensor(np.asarray(scores, dtype=np.float32))
    result.pred_classes = torch.as_tensor(np.asarray(classes, dtype=np.int64))
    result.is_cut = torch.as_tensor(np.zeros(len(scores), bool) if is_cut is None else np.asarray(is_cut, dtype=bool))
    if masks is not None:
        result.pred_masks = WindowMasks.from_bitmaps(torch.as_tensor(masks), (0, 0, SIZE[1], SIZE[0]), SIZE)
    return result


@given(st.integers(0, 10_000), st.integers(0, 60), st.sampled_from([0.3, 0.5, 0.8]))
def test_boxes_as_torchvision(seed, count, threshold):
    random = np.random.RandomState(seed)
    boxes, scores, classes = random_boxes(random, count), random.permutation(count) / 100, random.randint(0, 3, count)
    none_cut = np.zeros(count, dtype=bool)
    kept = suppress(boxes, scores, classes, none_cut, box_similarity(boxes, none_cut), threshold)
    expected = batched_nms(*(torch.from_numpy(x) for x in (boxes, scores, classes)), threshold)
    assert sorted(kept.tolist()) == sorted(expected.tolist())


def naive(boxes, bitmaps, scores, classes, is_cut, threshold):
    """Greedy NMS over whole-image bitmaps, one pair after the other."""
    order = sorted(range(len(scores)), key=lambda i: (is_cut[i], -scores[i], i))
    kept = []
    for i in order:
        for k in kept:
            common = (bitmaps[i] & bitmaps[k]).sum()
            whole = bitmaps[i].sum() if is_cut[i] else (bitmaps[i] | bitmaps[k]).sum()
            if classes[i] == classes[k] and common > threshold * whole:
                break
        else:
            kept.append(i)
    return sorted(kept, key=lambda i: -scores[i])


@given(st.integers(0, 10_000), st.integers(1, 40))
def test_masks_as_bitmaps_in_numpy(seed, count):
    random = np.random.RandomState(seed)
    boxes = random_boxes(random, count).round()
    bitmaps = np.zeros((count, *SIZE), dtype=bool)
    for bitmap, (x0, y0, x1, y1) in zip(bitmaps, boxes.astype(int), strict=True):
        bitmap[y0:y1, x0:x1] = random.rand(*bitmap[y0:y1, x0:x1].shape) < 0.9
    scores, classes, is_cut = random.permutation(count) / 100, random.randint(0, 2, count), random.rand(count) < 0.3
    merged = merge([instances(boxes, scores, classes, is_cut, bitmaps)], 0.5)
    expected = naive(boxes, bitmaps, scores, classes, is_cut, 0.5)
    np.testing.assert_allclose(merged.scores.numpy(), scores[expected].astype(np.float32))
    assert torch.equal(merged.pred_masks.tensor, torch.from_numpy(bitmaps[expected]))


def test_a_part_that_a_tile_has_cut_is_suppressed_by_its_whole_whatever_its_score():
    whole, part = [0, 0, 40, 20], [30, 0, 40, 20]
    merged = merge([instances([whole], [0.4], [1]), instances([part], [0.9], [1], [True])], 0.5)
    assert merged.pred_boxes.tensor.tolist() == [whole]
    assert not merged.has("is_cut")
    # A small object on a large one is no part of it.
    assert len(merge([instances([whole], [0.4], [1]), instances([part], [0.9], [1], [False])], 0.5)) == 2
    # Nothing else shows the object.
    assert len(merge([instances([whole], [0.4], [0]), instances([part], [0.9], [1], [True])], 0.5)) == 2


def test_masks_decide_where_boxes_are_equal():
    bitmaps = np.zeros((2, *SIZE), dtype=bool)
    bitmaps[0, :20, :40] = np.tri(20, 40, 10, dtype=bool)
    bitmaps[1, :20, :40] = ~bitmaps[0, :20, :40]
    boxes = [[0, 0, 40, 20]] * 2
    assert len(merge([instances(boxes, [0.9, 0.8], [0, 0], masks=bitmaps)], 0.5)) == 2
    assert len(merge([instances(boxes, [0.9, 0.8], [0, 0])], 0.5)) == 1


def test_limit_keeps_the_best():
    boxes = [[10 * i, 0, 10 * i + 8, 8] for i in range(5)]
    merged = merge([instances(boxes, [0.1, 0.5, 0.3, 0.4, 0.2], [0] * 5)], 0.5, limit=2)
    assert merged.scores.tolist() == pytest.approx([0.5, 0.4])


@pytest.mark.parametrize("with_masks", [True, False], ids=["masks", "boxes"])
def test_nothing_detected(with_masks):
    nothing = instances([], [], [], masks=np.zeros((0, *SIZE), bool) if with_masks else None)
    assert len(merge([nothing, nothing], 0.5)) == 0
