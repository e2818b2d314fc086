"""The training stream: samples depend on the seed and the position alone."""

import itertools
import random
from collections import Counter

import numpy as np
import pytest
import torch
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from hypothesis import given
from hypothesis import strategies as st

from flash_internimage.data.stream import TrainingStream, grouped_batches, seeded, shuffled_indices
from flash_internimage.errors import UserError


def take(iterable, number):
    return list(itertools.islice(iterable, number))


def draw_mapper(dataset_dict: dict) -> dict:
    """Return the random numbers that an augmentation would draw, in place of an augmented image."""
    return {**dataset_dict, "draws": (random.random(), np.random.uniform(), torch.rand(1).item())}


def dataset_dicts(landscape: int, portrait: int) -> list[dict]:
    sizes = [(20, 10)] * landscape + [(10, 20)] * portrait
    return [{"image_id": i, "width": width, "height": height} for i, (width, height) in enumerate(sizes)]


@given(
    factors=st.lists(st.floats(1, 4, width=32), min_size=1, max_size=30),
    seed=st.integers(0, 2**31),
)
def test_repeated_indices_are_those_of_detectron2(factors, seed):
    factors = torch.tensor(factors, dtype=torch.float32)
    number = 3 * len(factors) * 4  # some epochs
    expected = take(RepeatFactorTrainingSampler(factors, seed=seed), number)
    assert take(shuffled_indices(len(factors), seed, factors), number) == expected


def test_without_repeat_factors_indices_are_those_of_detectron2():
    assert take(shuffled_indices(9, 5), 40) == take(TrainingSampler(9, seed=5), 40)


def test_factors_are_the_mean_number_of_occurrences():
    factors = torch.tensor([1.0, 2.0, 1.25])
    batches = take(grouped_batches([0, 1, 0], 2, seed=0, repeat_factors=factors), 2000)
    counts = Counter(itertools.chain(*batches))
    # About 940 epochs. The third index occurs once more in a quarter of them: 235 +- 13, a standard deviation of 1.1 %.
    assert counts[1] / counts[0] == pytest.approx(2, rel=0.01)
    assert counts[2] / counts[0] == pytest.approx(1.25, rel=0.05)


@given(
    groups=st.lists(st.integers(0, 2), min_size=1, max_size=30),
    batch_size=st.integers(1, 7),
    seed=st.integers(0, 2**31),
)
def test_batches_have_one_group_and_every_index_once_per_epoch(groups, batch_size, seed):
    # After this many batches every index was drawn at least twice, even with the maximum number of pending indices.
    number = 3 * len(groups) + 3 * batch_size
    batches = take(grouped_batches(groups, batch_size, seed), number)
    assert all(len(batch) == batch_size for batch in batches)
    assert all(len({groups[i] for i in batch}) == 1 for batch in batches)
    counts = Counter(itertools.chain(*batches))
    epochs = number * batch_size / len(groups)
    # Fewer indices than a batch are pending in a group; so an index lags by at most the epochs that fill one batch.
    max_missing = 2 + 3 * batch_size
    assert all(abs(counts[i] - epochs) <= max_missing for i in range(len(groups)))


def test_first_epoch_is_complete_when_batches_divide_it():
    batches = take(grouped_batches([0] * 8 + [1] * 4, 4, seed=3), 3)
    assert sorted(itertools.chain(*batches)) == list(range(12))


def test_orders_differ_between_epochs_and_seeds():
    first, second = take(grouped_batches([0] * 50, 50, seed=0), 2)
    (other,) = take(grouped_batches([0] * 50, 50, seed=1), 1)
    assert sorted(first) == sorted(second) == sorted(other)
    assert first != second
    assert first != other


def test_seeded_restores_the_generators():
    expected = [random.random(), np.random.uniform(), torch.rand(1).item()]
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    with seeded(1, 2):
        inside = [random.random(), np.random.uniform(), torch.rand(1).item()]
    assert [random.random(), np.random.uniform(), torch.rand(1).item()] == expected
    with seeded(1, 2):
        assert [random.random(), np.random.uniform(), torch.rand(1).item()] == inside
    with seeded(2, 1):
        assert [random.random(), np.random.uniform(), torch.rand(1).item()] != inside


@pytest.mark.parametrize("start", [0, 1, 5, 23])
def test_resumed_stream_equals_an_uninterrupted_one(start):
    dataset = dataset_dicts(9, 6)
    complete = take(TrainingStream(dataset, draw_mapper, batch_size=4, seed=7), 4 * 30)
    resumed = take(TrainingStream(dataset, draw_mapper, batch_size=4, seed=7, start_iteration=start), 4 * (30 - start))
    assert resumed == complete[4 * start :]


def test_an_image_is_augmented_differently_each_time():
    samples = take(TrainingStream(dataset_dicts(3, 0), draw_mapper, batch_size=1, seed=0), 60)
    for i in range(3):
        assert len(draws := [s["draws"] for s in samples if s["image_id"] == i]) == 20
        assert len(set(draws)) == 20


def test_samples_do_not_depend_on_the_global_generators():
    first = take(TrainingStream(dataset_dicts(5, 5), draw_mapper, batch_size=2, seed=0), 8)
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    assert take(TrainingStream(dataset_dicts(5, 5), draw_mapper, batch_size=2, seed=0), 8) == first


@pytest.mark.parametrize("start", [0, 3])
def test_processes_get_disjoint_batches_of_one_stream(monkeypatch, start):
    dataset = dataset_dicts(7, 8)
    alone = take(TrainingStream(dataset, draw_mapper, batch_size=2, seed=1), 2 * 3 * 20)
    batches = [alone[i : i + 2] for i in range(0, len(alone), 2)]
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        stream = TrainingStream(dataset, draw_mapper, batch_size=2, seed=1, start_iteration=start)
        expected = list(itertools.chain(*batches[rank + 3 * start :: 3]))
        assert take(stream, len(expected)) == expected


def reject_mapper(dataset_dict: dict) -> dict | None:
    return draw_mapper(dataset_dict) if dataset_dict["image_id"] in (2, 4, 9) and np.random.uniform() < 0.5 else None


def test_rejected_images_are_replaced_by_others_of_their_group():
    stream = TrainingStream(dataset_dicts(5, 5), reject_mapper, batch_size=2, seed=0)
    samples = take(stream, 60)
    for first, second in zip(samples[::2], samples[1::2], strict=True):
        assert (first["width"] > first["height"]) == (second["width"] > second["height"])
    assert {s["image_id"] for s in samples} == {2, 4, 9}
    assert take(TrainingStream(dataset_dicts(5, 5), reject_mapper, 2, 0, start_iteration=10), 40) == samples[20:]


def reject_all_mapper(dataset_dict: dict) -> None:
    return None


def test_error_when_every_image_is_rejected():
    with pytest.raises(UserError, match="100 augmented images"):
        next(iter(TrainingStream(dataset_dicts(5, 5), reject_all_mapper, batch_size=2, seed=0)))
