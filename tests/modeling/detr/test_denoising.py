"""Denoising queries: noise on labels and boxes, and the attention mask."""

import pytest
import torch
from torch.testing import assert_close

from flash_internimage.modeling.detr.box_ops import to_corners
from flash_internimage.modeling.detr.denoising import DenoisingQueries, NoiseDraws, draw_noise, noisy_boxes, noisy_labels

NUM_CLASSES = 5


def test_a_quarter_of_the_labels_is_replaced():
    labels = torch.zeros(2, 100, 2, 20, dtype=torch.int64)
    draws = draw_noise(labels.shape, 1000, torch.zeros((), dtype=torch.float64))
    changed = noisy_labels(labels, draws, scale=0.5).ne(0).double().mean()
    assert 0.23 < changed < 0.27
    assert torch.equal(noisy_labels(labels, draws, scale=0.0), labels)


def test_noise_repeats_with_the_seed_and_has_both_signs():
    like = torch.zeros((), dtype=torch.float64)
    torch.manual_seed(3)
    first = draw_noise((2, 4, 2, 3), NUM_CLASSES, like)
    torch.manual_seed(3)
    second = draw_noise((2, 4, 2, 3), NUM_CLASSES, like)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert set(first.box_sign.flatten().tolist()) == {-1.0, 1.0}
    assert set(first.new_labels.flatten().tolist()) == set(range(NUM_CLASSES))


def test_attention_within_a_group_and_to_the_matching_queries_only():
    group_size, count = 4, 12
    queries = DenoisingQueries(torch.zeros(1, count, 8), torch.zeros(1, count, 4), num_groups=3, matches=[])
    assert queries.count == count
    mask = queries.attention_mask(num_queries=3)
    assert mask.shape == (count + 3, count + 3)
    for row in range(count + 3):
        for column in range(count + 3):
            same_group = row < count and column < count and row // group_size == column // group_size
            assert bool(mask[row, column]) == (column < count and not same_group)


def test_without_denoising_queries_everything_is_attended_to():
    queries = DenoisingQueries(torch.zeros(1, 0, 8), torch.zeros(1, 0, 4), num_groups=1, matches=[])
    assert not queries.attention_mask(4).any()


@pytest.mark.parametrize("shape", [(2, 3), (1, 4, 2, 3)], ids=["groups of positives", "positives and negatives"])
def test_edges_move_by_up_to_half_a_side(shape):
    boxes = torch.tensor([0.5, 0.5, 0.2, 0.4], dtype=torch.float64).expand(*shape, 4)
    moved = noisy_boxes(boxes, draw_noise(shape, NUM_CLASSES, boxes), scale=1.0)
    assert moved.shape == boxes.shape
    shift = (to_corners(moved) - to_corners(boxes)).abs() / boxes.new_tensor([0.1, 0.2, 0.1, 0.2])
    assert 0 < shift.max() <= 1


def test_a_moved_box_by_hand_is_clipped_to_the_image():
    boxes = torch.tensor([[0.9, 0.5, 0.2, 0.4]], dtype=torch.float64)  # corners 0.8 0.3 1.0 0.7
    signs = torch.tensor([[-1.0, 1.0, 1.0, -1.0]], dtype=torch.float64)
    uniform = torch.full((1, 4), 0.5, dtype=torch.float64)  # half of the half sides 0.1 and 0.2
    draws = NoiseDraws(torch.ones(1), torch.zeros(1, dtype=torch.int64), signs, uniform)
    assert_close(to_corners(noisy_boxes(boxes, draws, 1.0)), torch.tensor([[0.75, 0.4, 1.0, 0.6]], dtype=torch.float64))
