"""Contrastive denoising: layout of the queries, noise of positives and negatives, images without boxes."""

import pytest
import torch
from torch.testing import assert_close

from flash_internimage.modeling.detr.box_ops import to_corners
from flash_internimage.modeling.detr.denoising import NoiseDraws, draw_noise, noisy_boxes
from flash_internimage.modeling.detr.targets import Target
from flash_internimage.projects.dino import ContrastiveDenoising
from flash_internimage.projects.dino.denoising import contrastive_noise

NUM_CLASSES, EMBED_DIM = 5, 8


def make_target(count: int) -> Target:
    boxes = torch.rand(count, 4, dtype=torch.float64) * 0.4 + 0.3
    return Target(torch.randint(NUM_CLASSES, (count,)), boxes, boxes.new_tensor([64.0, 32.0, 64.0, 32.0]))


def make_denoising(**arguments) -> ContrastiveDenoising:
    return ContrastiveDenoising(NUM_CLASSES, EMBED_DIM, **arguments).double()


@pytest.mark.parametrize(
    ("counts", "groups"), [([2, 5], 20), ([3, 0], 33), ([60, 1], 1), ([150], 1)], ids=["two", "one empty", "60", "150"]
)
def test_number_of_groups_follows_the_image_with_the_most_boxes(counts, groups):
    queries = make_denoising(num_queries=100)([make_target(count) for count in counts])
    assert queries.num_groups == groups
    assert queries.count == groups * 2 * max(counts)
    assert queries.contents.shape == (len(counts), queries.count, EMBED_DIM)
    assert queries.box_logits.shape == (len(counts), queries.count, 4)


def test_groups_have_positives_then_negatives_and_zeros_in_empty_slots():
    targets = [make_target(1), make_target(3)]
    denoising = make_denoising(num_queries=6, label_noise=0.0, box_noise=0.0)
    queries = denoising(targets)
    assert queries.num_groups == 2
    for image, target in enumerate(targets):
        for slot in range(2 * 2 * 3):
            box = slot % 3
            if box < len(target.labels):
                assert_close(queries.box_logits[image, slot], torch.logit(target.boxes[box]))
                assert_close(queries.contents[image, slot], denoising.label_embedding.weight[target.labels[box]])
            else:
                assert not queries.box_logits[image, slot].any()
                assert not queries.contents[image, slot].any()
    # Slots 0-2 and 6-8 are positives.
    assert queries.matches[0].queries.tolist() == [0, 6]
    assert queries.matches[0].targets.tolist() == [0, 0]
    assert queries.matches[1].queries.tolist() == [0, 1, 2, 6, 7, 8]
    assert queries.matches[1].targets.tolist() == [0, 1, 2, 0, 1, 2]


def test_positives_move_by_up_to_half_a_side_and_negatives_by_half_to_a_whole():
    boxes = torch.tensor([0.5, 0.5, 0.1, 0.2], dtype=torch.float64).expand(1, 50, 2, 40, 4)
    moved = noisy_boxes(boxes, contrastive_noise(draw_noise((1, 50, 2, 40), NUM_CLASSES, boxes)), scale=1.0)
    shift = (to_corners(moved) - to_corners(boxes)).abs() / boxes.new_tensor([0.1, 0.2, 0.1, 0.2])
    positive, negative = shift[:, :, 0], shift[:, :, 1]
    assert 0 <= positive.min() < 0.01
    assert 0.49 < positive.max() <= 0.5 + 1e-9
    assert 0.5 - 1e-9 <= negative.min() < 0.51
    assert 0.99 < negative.max() <= 1 + 1e-9


def test_a_moved_box_by_hand_is_clipped_to_the_image():
    boxes = torch.tensor([0.9, 0.5, 0.2, 0.4], dtype=torch.float64).expand(1, 1, 2, 1, 4)
    signs = torch.tensor([-1.0, 1.0, 1.0, -1.0], dtype=torch.float64).expand(1, 1, 2, 1, 4)
    uniform = torch.full((1, 1, 2, 1, 4), 0.5, dtype=torch.float64)
    draws = NoiseDraws(torch.ones(1, 1, 2, 1), torch.zeros(1, 1, 2, 1, dtype=torch.int64), signs, uniform)
    positive, negative = to_corners(noisy_boxes(boxes, contrastive_noise(draws), scale=1.0))[0, 0, :, 0]
    # Corners 0.8 0.3 1.0 0.7; half sides 0.1 and 0.2, moved by 0.5 and by 1.5 of them; 1.05 and 1.15 are clipped.
    assert_close(positive, torch.tensor([0.75, 0.4, 1.0, 0.6], dtype=torch.float64))
    assert_close(negative, torch.tensor([0.65, 0.6, 1.0, 0.4], dtype=torch.float64))


def test_without_boxes_there_are_no_queries_but_the_embedding_gets_a_zero_gradient():
    denoising = make_denoising()
    queries = denoising([make_target(0), make_target(0)])
    assert queries.count == 0
    assert not queries.attention_mask(4).any()
    everything = torch.cat([queries.contents, torch.ones(2, 4, EMBED_DIM, dtype=torch.float64)], dim=1)
    everything.sum().backward()
    assert torch.equal(denoising.label_embedding.weight.grad, torch.zeros(NUM_CLASSES, EMBED_DIM, dtype=torch.float64))
