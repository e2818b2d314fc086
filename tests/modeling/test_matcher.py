import pytest
import torch
from detectron2.modeling.matcher import Matcher
from hypothesis import given
from hypothesis import strategies as st

from flash_internimage.modeling.matcher import IoUMatcher, match_by_iou


def naive(ious: torch.Tensor, positive: float, negative: float, low_quality: float | None) -> tuple[list, list]:
    """The matching rule in plain Python loops."""
    matches, labels = [], []
    for column in ious.T.tolist():
        best = max(column, default=0.0)
        matches.append(column.index(best) if column else 0)
        labels.append(1 if column and best >= positive else 0 if best < negative else -1)
    if low_quality is not None:
        for target, row in enumerate(ious.tolist()):
            for candidate, iou in enumerate(row):
                if iou == max(row) >= low_quality:
                    matches[candidate], labels[candidate] = target, 1
    return matches, labels


def test_labels_by_hand():
    ious = torch.tensor([[0.1, 0.3, 0.5, 0.7, 0.9]])
    matches, labels = match_by_iou(ious, positive=0.7, negative=0.3)
    assert matches.tolist() == [0] * 5
    assert labels.tolist() == [0, -1, -1, 1, 1]
    assert labels.dtype == torch.int8


def test_a_claimed_candidate_is_matched_to_the_target_that_claims_it():
    # Candidate 0 has a higher IoU with target 0, but is the best candidate of target 1.
    ious = torch.tensor([[0.8, 0.9], [0.4, 0.2]])
    matches, labels = match_by_iou(ious, 0.7, 0.3, low_quality=0.3)
    assert matches.tolist() == [1, 0]
    assert labels.tolist() == [1, 1]
    theirs, _ = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)(ious)
    assert theirs.tolist() == [0, 0], "detectron2 now reassigns too, so its Matcher may suffice"


def test_a_claim_needs_the_minimum_iou():
    ious = torch.tensor([[0.0, 0.29]])
    assert match_by_iou(ious, 0.7, 0.3, low_quality=0.3)[1].tolist() == [0, 0]
    assert match_by_iou(ious, 0.7, 0.3, low_quality=0.2)[1].tolist() == [0, 1]


def test_ties_are_all_claimed_and_the_last_target_gets_them():
    ious = torch.tensor([[0.4, 0.4, 0.1], [0.4, 0.1, 0.4]])
    matches, labels = match_by_iou(ious, 0.7, 0.3, low_quality=0.3)
    assert matches.tolist() == [1, 0, 1]
    assert labels.tolist() == [1, 1, 1]


@given(
    targets=st.integers(0, 4),
    candidates=st.integers(0, 6),
    low_quality=st.sampled_from([None, 0.3, 0.5]),
    seed=st.integers(0, 10**6),
)
def test_equals_the_naive_implementation(targets, candidates, low_quality, seed):
    # Multiples of 0.1 produce ties and values equal to the thresholds.
    generator = torch.Generator().manual_seed(seed)
    ious = torch.randint(0, 11, (targets, candidates), generator=generator).double() / 10
    matches, labels = IoUMatcher(0.7, 0.3, low_quality)(ious)
    expected_matches, expected_labels = naive(ious, 0.7, 0.3, low_quality)
    if targets > 0:
        assert matches.tolist() == expected_matches
    assert labels.tolist() == expected_labels


def test_thresholds_in_the_wrong_order():
    with pytest.raises(ValueError, match="negative must not be above positive, got negative=0.7, positive=0.3"):
        IoUMatcher(positive=0.3, negative=0.7)
