"""AP of rare, common and frequent classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

FEWEST_CLASSES = 6
"""With fewer classes, a third of them is a class or two, which the table shows anyway."""

GROUPS = ("rare", "common", "frequent")


def frequency_groups(num_objects: Sequence[int] | np.ndarray) -> dict[str, list[int]]:
    """Divide the classes into thirds by their number of objects: ``rare``, ``common`` and ``frequent``.

    Classes without objects, which have no AP, are in none. Of classes with equally many objects the first one is rarer. If the
    thirds are unequal, the middle one, then the last one, has a class more.

    Args:
        num_objects: number of objects of each class in the evaluated data.

    Returns:
        Indices of the classes of each group, in ascending order of objects; empty for fewer than ``FEWEST_CLASSES`` classes.
    """
    counts = np.asarray(num_objects)
    order = [int(k) for k in np.argsort(counts, kind="stable") if counts[k] > 0]
    if len(order) < FEWEST_CLASSES:
        return {}
    first, second = len(order) // 3, 2 * len(order) // 3 + (len(order) % 3 == 1)
    return dict(zip(GROUPS, (order[:first], order[first:second], order[second:]), strict=True))


def mean_over_classes(metrics: Sequence[Mapping[str, float]], names: Sequence[str]) -> dict[str, float]:
    """The mean of each metric over classes, each with equal weight, without those in which it is NaN; NaN if there are none."""
    means = {}
    for name in names:
        values = [found[name] for found in metrics if not math.isnan(found[name])]
        means[name] = sum(values) / len(values) if values else math.nan
    return means
