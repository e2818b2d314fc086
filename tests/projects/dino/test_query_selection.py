"""Query selection: which tokens are selected, and their boxes."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from flash_internimage.modeling.detr.feature_levels import token_centers
from flash_internimage.projects.dino import QuerySelection
from flash_internimage.projects.dino.query_selection import Selection, token_boxes

SHAPES = [(4, 6), (2, 3)]
TOKENS, CHANNELS, CLASSES = 30, 8, 3


def centers_of(valid: list[list[int]]) -> torch.Tensor:
    return token_centers(torch.tensor([valid]), SHAPES, torch.float64)


@pytest.fixture
def heads() -> tuple[nn.Module, nn.Module]:
    return nn.Linear(CHANNELS, CLASSES).double(), nn.Linear(CHANNELS, 4).double()


def select(
    num_queries: int, heads: tuple[nn.Module, nn.Module], memory: torch.Tensor, mask: torch.Tensor, centers: torch.Tensor
) -> tuple[QuerySelection, Selection]:
    selection = QuerySelection(num_queries, CHANNELS).double()
    return selection, selection(memory, mask, centers, SHAPES, *heads)


def test_sides_of_token_boxes_double_with_every_level():
    boxes = token_boxes(centers_of([[6, 4], [3, 2]]), SHAPES)[0]
    assert_close(boxes[0], torch.tensor([1 / 12, 1 / 8, 0.05, 0.05], dtype=torch.float64))
    assert_close(boxes[-1], torch.tensor([5 / 6, 3 / 4, 0.1, 0.1], dtype=torch.float64))


def test_the_best_tokens_come_first_with_their_own_corrected_boxes(heads):
    memory, mask = torch.randn(1, TOKENS, CHANNELS, dtype=torch.float64), torch.zeros(1, TOKENS, dtype=torch.bool)
    centers = centers_of([[6, 4], [3, 2]])
    selection, result = select(5, heads, memory, mask, centers)

    class_head, box_head = heads
    tokens = selection.norm(selection.projection(memory))[0]
    best = class_head(tokens).amax(dim=-1).argsort(descending=True)[:5]
    assert result.indices[0].tolist() == best.tolist()
    assert_close(result.logits[0], class_head(tokens[best]))
    start = torch.logit(token_boxes(centers, SHAPES)[0, best])
    assert_close(result.boxes[0], (box_head(tokens[best]) + start).sigmoid())


def test_tokens_in_the_padding_or_at_the_border_have_a_box_of_the_whole_image(heads):
    # Five of six columns are image. A huge memory in the padding must not matter.
    memory = torch.randn(1, TOKENS, CHANNELS, dtype=torch.float64)
    mask = torch.zeros(1, TOKENS, dtype=torch.bool)
    mask[0, 5:24:6] = True
    memory[0, 5:24:6] = 1e6
    memory.requires_grad_()
    selection, result = select(TOKENS, heads, memory, mask, centers_of([[5, 4], [3, 2]]))

    padded = mask[0, result.indices[0]]
    assert padded.sum() == 4
    assert_close(result.boxes[0, padded], torch.ones(4, 4, dtype=torch.float64))
    assert (result.boxes[0, ~padded] < 1).all()
    nothing = heads[0](selection.norm(selection.projection.bias))
    assert_close(result.logits[0, padded], nothing.expand(4, -1))

    (result.boxes.sum() + result.logits.sum()).backward()
    assert memory.grad.isfinite().all()
    assert not memory.grad[mask].any()
    assert memory.grad[~mask].abs().sum(dim=-1).min() > 0


def test_an_image_with_fewer_tokens_than_queries_gives_all_of_them(heads):
    memory, mask = torch.randn(1, TOKENS, CHANNELS, dtype=torch.float64), torch.zeros(1, TOKENS, dtype=torch.bool)
    _, result = select(900, heads, memory, mask, centers_of([[6, 4], [3, 2]]))
    assert sorted(result.indices[0].tolist()) == list(range(TOKENS))
