"""Thirds of the classes by their number of objects."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_internimage.evaluation.frequency import frequency_groups, mean_over_classes
from flash_internimage.evaluation.report import Evaluation, _metrics_section
from flash_internimage.evaluation.report_matching import Boxes
from flash_internimage.evaluation.scores import METRICS, Scores

NO_BOXES = Boxes.from_coco([], {}, {})


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        pytest.param([60, 10, 30, 20, 50, 40], [[1, 3], [2, 5], [4, 0]], id="six"),
        pytest.param([7, 6, 5, 4, 3, 2, 1], [[6, 5], [4, 3, 2], [1, 0]], id="seven"),
        pytest.param([8, 7, 6, 5, 4, 3, 2, 1], [[7, 6], [5, 4, 3], [2, 1, 0]], id="eight"),
        pytest.param([5, 5, 0, 5, 5, 5, 5], [[0, 1], [3, 4], [5, 6]], id="equal numbers, and a class without objects"),
    ],
)
def test_thirds(counts, expected):
    assert list(frequency_groups(counts).values()) == expected


def test_few_classes_are_not_divided():
    assert frequency_groups([5, 4, 3, 2, 1, 0]) == {}


@given(st.lists(st.integers(0, 9), min_size=6, max_size=40))
def test_groups_are_a_partition_in_ascending_order(counts):
    groups = list(frequency_groups(counts).values())
    joined = [k for group in groups for k in group]
    if groups:
        assert sorted(joined) == [k for k, count in enumerate(counts) if count]
        assert np.all(np.diff([counts[k] for k in joined]) >= 0)
        assert max(map(len, groups)) - min(map(len, groups)) <= 1


def test_means_are_over_classes_without_nan():
    found = mean_over_classes([{"AP": 10.0, "APl": math.nan}, {"AP": 30.0, "APl": math.nan}], ["AP", "APl"])
    assert found["AP"] == 20
    assert math.isnan(found["APl"])


def test_report_lists_the_thirds_after_all_classes():
    by_category = {10 * k: dict.fromkeys(METRICS, float(k)) for k in range(6)}
    scores = {"bbox": Scores(dict.fromkeys(METRICS, 2.5), by_category, np.zeros((10, 101, 6)))}
    names = [f"class {k}" for k in range(6)]
    counts = np.array([5, 60, 4, 50, 30, 20])
    data = Evaluation("data", names, [], counts, scores, NO_BOXES, NO_BOXES, 100)
    section = _metrics_section(data)
    rows = [(row["name"], row["objects"], row["cells"][0]) for row in section["ap_rows"][: section["num_group_rows"]]]
    assert rows == [
        ("all", "169", "2.5"),
        ("2 rare classes", "9", "1.0"),  # 2 and 0
        ("2 common classes", "50", "4.5"),  # 5 and 4
        ("2 frequent classes", "110", "2.0"),  # 3 and 1
    ]
