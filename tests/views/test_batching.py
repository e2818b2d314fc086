"""Batches of one padded size, in order, and with a bounded number of waiting samples."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flash_internimage.views.batching import batches_of_equals, detect_in_batches, in_order

ITEMS = st.lists(st.integers(0, 4), max_size=60)


@given(ITEMS, st.integers(1, 5))
def test_every_item_is_in_one_batch_of_equals(items, size):
    batches = list(batches_of_equals(items, lambda item: item, size))
    assert all(len({item for _, item in batch}) == 1 and 0 < len(batch) <= size for batch in batches)
    assert sorted(pair for batch in batches for pair in batch) == list(enumerate(items))


@given(ITEMS, st.integers(1, 5))
def test_few_items_wait(items, size):
    drawn = []
    done = 0
    for batch in batches_of_equals((drawn.append(item) or item for item in items), lambda item: item, size):
        assert len(drawn) - done <= 4 * size
        done += len(batch)


@given(st.permutations(range(20)))
def test_results_come_in_order(order):
    assert list(in_order((number, str(number)) for number in order)) == [str(number) for number in range(20)]


@pytest.mark.parametrize("size", [1, 3])
def test_a_batch_has_one_padded_size(size):
    shapes = [(3, 60, 64), (3, 33, 40), (3, 64, 50), (3, 64, 64), (3, 65, 64)]
    seen = []

    def detect(batch):
        seen.append([tuple(sample["image"].shape) for sample in batch])
        return [{"number": sample["number"]} for sample in batch]

    samples = [{"image": torch.zeros(shape), "number": number} for number, shape in enumerate(shapes)]
    assert [output["number"] for output in detect_in_batches(detect, samples, size, 32)] == list(range(5))
    assert all(len({tuple(-(-np.array(shape[1:]) // 32)) for shape in batch}) == 1 for batch in seen)
    assert max(map(len, seen)) == size
