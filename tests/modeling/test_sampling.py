import torch
from hypothesis import given
from hypothesis import strategies as st

from flash_internimage.modeling.sampling import choose, sample_labels


def test_few_candidates_are_all_chosen():
    assert choose(torch.tensor([3, 5, 8]), 3).tolist() == [3, 5, 8]
    assert choose(torch.tensor([], dtype=torch.int64), 3).tolist() == []


def test_candidates_are_chosen_uniformly():
    counts = torch.zeros(10)
    for _ in range(2000):
        counts[choose(torch.arange(10), 3)] += 1
    # The expected count is 600, with a standard deviation of 20.
    assert (counts - 600).abs().max() < 100


@given(
    labels=st.lists(st.sampled_from([-1, 0, 1]), max_size=40),
    num=st.integers(0, 20),
    fraction=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
def test_samples_are_ascending_and_distinct_and_have_the_expected_number(labels, num, fraction):
    labels = torch.tensor(labels, dtype=torch.int8)
    positives, negatives = sample_labels(labels, num, fraction)
    assert (labels[positives] == 1).all()
    assert (labels[negatives] == 0).all()
    for chosen in (positives, negatives):
        assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(positives) == min(int((labels == 1).sum()), int(num * fraction))
    assert len(negatives) == min(int((labels == 0).sum()), num - len(positives))
