"""Validation and decoding of COCO's run-length encoded (RLE) masks, without any C code that trusts them.

pycocotools writes past its buffers when the runs of a mask are longer than its image, and returns uninitialized memory when
they are shorter, so that every mask is validated here before it is decoded there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from flash_internimage.errors import UserError

_FIRST = 48  # the character of the value 0
_CONTINUES = 0x20  # bit of a character: more characters of the same number follow
_NEGATIVE = 0x10  # bit of the last character of a number: its sign
_BATCH = 1 << 18  # characters of compressed masks that are decoded at once
_MAX_PIXELS = 1 << 22  # of the bitmaps that are decoded at once
_MAX_CHARACTERS = 7  # of one number: 35 bits, more than any run of a mask needs


def require_valid_masks(
    masks: Iterable[Any], sizes: Iterable[tuple[int, int]], label: Callable[[int], str] = "mask {}".format
) -> None:
    """Raise an exception unless all RLE masks can be decoded; other segmentations, such as polygons, are skipped.

    Args:
        masks: segmentations from JSON; an RLE is a dict with ``size`` and ``counts``, a list or compressed.
        sizes: ``(height, width)`` of the image of each mask, in pixels.
        label: returns the name of a mask for messages, from its index.

    Raises:
        UserError: a mask has another size than its image, or its runs do not sum to that size.
    """
    batch: list[tuple[int, Any, int]] = []
    num_characters = 0
    for i, (mask, (height, width)) in enumerate(zip(masks, sizes, strict=True)):
        if not isinstance(mask, dict):
            continue
        counts = mask.get("counts")
        problem = None
        if mask.get("size") not in ([height, width], (height, width)):
            problem = f"whose size should be {[height, width]}, but is {_short(mask.get('size'))}"
        elif isinstance(counts, str | bytes):
            batch.append((i, counts, height * width))
            num_characters += len(counts)
        elif isinstance(counts, list):
            problem = problem_of_counts(counts, height * width)
        else:
            problem = f"whose counts are neither a list nor text: {_short(counts)}"
        if problem is not None:
            raise UserError(f"{label(i)} has an RLE mask {problem}; correct its segmentation")
        if num_characters >= _BATCH:
            _require_valid_strings(batch, label)
            batch, num_characters = [], 0
    _require_valid_strings(batch, label)


def _require_valid_strings(batch: Sequence[tuple[int, Any, int]], label: Callable[[int], str]) -> None:
    if batch:
        indices, strings, pixels = zip(*batch, strict=True)
        for i, problem in problems_of_strings(strings, pixels):
            raise UserError(f"{label(indices[i])} has an RLE mask {problem}; correct its segmentation")


def problem_of_counts(counts: list, pixels: int) -> str | None:
    """Return what is wrong with uncompressed counts, or None.

    Args:
        counts: lengths of the runs, from JSON and thus of any type.
        pixels: number of pixels of the image.
    """
    if not all(kind is int for kind in set(map(type, counts))):
        wrong = next(count for count in counts if type(count) is not int)
        return f"whose counts should be whole numbers, but include {_short(wrong)}"
    if min(counts, default=0) < 0:
        return f"whose counts should not be negative, but include {_short(min(counts))}"
    if sum(counts) != pixels:
        return f"whose counts should sum to {pixels} (height x width), but sum to {_short(sum(counts))}"
    return None


def problems_of_strings(strings: Sequence[str | bytes], pixels: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Yield the index of each invalid compressed mask, in ascending order, with what is wrong with it.

    All masks are decoded at once, with 64-bit integers: about 0.1 microseconds per character.

    Args:
        strings: counts in COCO's compressed form.
        pixels: number of pixels of the image of each mask.
    """
    runs, per_mask, malformed = _decode(strings)
    shortest, longest, total = np.zeros((3, len(strings)), dtype=np.int64)
    nonempty = np.flatnonzero(per_mask)
    first = (np.cumsum(per_mask) - per_mask)[nonempty]
    if len(nonempty):
        shortest[nonempty] = np.minimum.reduceat(runs, first)
        longest[nonempty] = np.maximum.reduceat(runs, first)
        total[nonempty] = np.add.reduceat(runs, first)  # wraps around for long runs, which are therefore refused by themselves
    most = np.asarray(pixels)
    for i in np.flatnonzero(malformed | (shortest < 0) | (longest > most) | (total != most)).tolist():
        if malformed[i]:
            yield i, f"whose counts are not a compressed run-length encoding: {_short(strings[i])}"
        elif shortest[i] < 0:
            yield i, f"whose counts should not be negative, but include {shortest[i]}: {_short(strings[i])}"
        elif longest[i] > most[i]:
            yield (
                i,
                f"whose counts should be {pixels[i]} (height x width) or less, but include {longest[i]}: {_short(strings[i])}",
            )
        else:
            yield (
                i,
                f"whose counts should sum to {pixels[i]} (height x width), but sum to {total[i]}: {_short(strings[i])}",
            )


class RunsOfOnes(NamedTuple):
    """Runs of ones of N masks of the same size; runs go down the columns, from pixel to pixel.

    Attributes:
        starts: (R,), first pixel of each run, which is column * height + row; ascending within a mask.
        ends: (R,), pixel after the last one of each run.
        per_mask: (N,), number of runs of each mask; the runs of a mask follow those of the one before.
    """

    starts: np.ndarray
    ends: np.ndarray
    per_mask: np.ndarray

    @classmethod
    def of(cls, strings: Sequence[str | bytes]) -> RunsOfOnes:
        """Decode valid compressed masks (:func:`problems_of_strings`); a run may be empty, and is left out then."""
        parts = []
        ends = np.cumsum([0, *map(len, strings)])
        # Batches bound the memory of intermediate results.
        batches = np.searchsorted(ends[1:], np.arange(0, ends[-1] + _BATCH, _BATCH), side="right")
        for first, last in pairwise(np.unique([0, *batches, len(strings)]).tolist()):
            runs, per_mask, _ = _decode(strings[first:last])
            after = np.cumsum(runs)
            first_run = np.cumsum(per_mask) - per_mask
            before_mask = np.concatenate([[0], after])[first_run]
            position = np.arange(len(runs)) - np.repeat(first_run, per_mask)
            is_ones = (position % 2 == 1) & (runs > 0)
            owner = np.repeat(np.arange(len(per_mask)), per_mask)[is_ones]
            stops = after[is_ones] - before_mask[owner]
            counts = np.bincount(owner, minlength=len(per_mask))
            parts.append(cls((stops - runs[is_ones]).astype(np.int32), stops.astype(np.int32), counts))
        return cls(*map(np.concatenate, zip(*parts, strict=True))) if parts else cls(*np.zeros((3, 0), dtype=np.int32))

    def windows(self, height: int) -> np.ndarray:
        """Return x0, y0, x1 and y1 (exclusive) of the window that each mask occupies, (N, 4); zeros without ones.

        Args:
            height: height of the masks in pixels.
        """
        windows = np.zeros((len(self.per_mask), 4), dtype=np.int64)
        occupied = np.flatnonzero(self.per_mask)
        if len(occupied):
            first = (np.cumsum(self.per_mask) - self.per_mask)[occupied]
            x0, y0 = np.divmod(self.starts, height)
            x1, y1 = np.divmod(self.ends - 1, height)
            # A run that goes on in the next column reaches the lower border, and continues at the upper one.
            y0[x1 > x0], y1[x1 > x0] = 0, height - 1
            windows[occupied, 0] = np.minimum.reduceat(x0, first)
            windows[occupied, 1] = np.minimum.reduceat(y0, first)
            windows[occupied, 2] = np.maximum.reduceat(x1, first) + 1
            windows[occupied, 3] = np.maximum.reduceat(y1, first) + 1
        return windows

    def bitmaps(self, windows: np.ndarray, height: int) -> Iterator[np.ndarray]:
        """Yield the part of each mask in its window, as (x1 - x0, y1 - y0) ``uint8`` of zeros and ones: column by column.

        Args:
            windows: (N, 4), as :meth:`windows` returns them.
            height: height of the masks in pixels.
        """
        x0, y0 = windows[:, 0], windows[:, 1]
        widths, heights = (windows[:, 2:] - windows[:, :2]).T
        bounds = np.concatenate([[0], np.cumsum(widths * heights)])
        runs = np.concatenate([[0], np.cumsum(self.per_mask)])
        last = 0
        for first in range(len(windows)):
            if first < last:
                continue
            # As many masks as fit into the cache, at least one.
            last = max(first + 1, int(np.searchsorted(bounds, bounds[first] + _MAX_PIXELS, side="right")) - 1)
            owner = np.repeat(np.arange(first, last), self.per_mask[first:last])
            left, top, side, start = x0[owner], y0[owner], heights[owner], bounds[owner] - bounds[first]
            chosen = slice(runs[first], runs[last])
            column, row = np.divmod(self.starts[chosen], height)
            starts = start + (column - left) * side + (row - top)
            column, row = np.divmod(self.ends[chosen] - 1, height)
            ends = start + (column - left) * side + (row - top) + 1
            edges = np.stack([starts, ends], axis=1).reshape(-1)
            lengths = np.diff(edges, prepend=0, append=bounds[last] - bounds[first])
            pixels = np.repeat((np.arange(len(lengths)) % 2).astype(np.uint8), lengths)
            for i in range(first, last):
                offset = bounds[i] - bounds[first]
                yield pixels[offset : offset + widths[i] * heights[i]].reshape(widths[i], heights[i])


def _decode(strings: Sequence[str | bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decode compressed masks.

    Returns:
        The runs of all masks, one mask after the other, their number in each mask (N,), and whether each mask is malformed,
        in which case its runs mean nothing.
    """
    encoded = [s if isinstance(s, bytes) else s.encode("utf-8", "surrogatepass") for s in strings]
    lengths = np.array([len(s) for s in encoded], dtype=np.int64)
    codes = np.frombuffer(b"".join(encoded), dtype=np.uint8) - np.uint8(_FIRST)  # those below wrap around to large ones
    ends = np.cumsum(lengths)
    malformed = np.zeros(len(encoded), dtype=bool)
    malformed[np.searchsorted(ends, np.flatnonzero(codes > 63), side="right")] = True
    last = (codes & _CONTINUES) == 0
    nonempty = np.flatnonzero(lengths)
    malformed[nonempty[~last[ends[nonempty] - 1]]] = True  # its last number is cut off
    last[ends[nonempty] - 1] = True  # so that numbers do not extend into the next mask

    stops = np.flatnonzero(last)
    starts = np.concatenate([[0], stops[:-1] + 1]) if len(stops) else stops
    digits = stops - starts + 1
    per_mask = np.diff(np.searchsorted(stops, ends), prepend=0)
    too_long = np.flatnonzero(digits > _MAX_CHARACTERS)
    malformed[np.searchsorted(ends, stops[too_long], side="right")] = True
    digits = digits.clip(max=_MAX_CHARACTERS)
    numbers = (codes[starts] & 0x1F).astype(np.int64)
    for k in range(1, digits.max(initial=0)):
        long = np.flatnonzero(digits > k)
        numbers[long] |= (codes[starts[long] + k] & 0x1F).astype(np.int64) << (5 * k)
    negative = np.flatnonzero(codes[stops] & _NEGATIVE)
    numbers[negative] |= -1 << (5 * digits[negative])
    return _undo_differences(numbers, per_mask), per_mask, malformed


def _undo_differences(numbers: np.ndarray, per_mask: np.ndarray) -> np.ndarray:
    """Return the runs that are encoded as ``numbers``: from the fourth on, the difference to the last run but one.

    Args:
        numbers: numbers of all masks, one mask after the other.
        per_mask: how many numbers each mask has.
    """
    # Cumulative sums over every second number of all masks, less their value where a mask starts, undo the differences. Two
    # zeros before the first number save cases. Run 0 of a mask is alone: runs 1, 3, 5, ... and 2, 4, 6, ... are the chains.
    sums = np.concatenate([[0, 0], numbers])
    for parity in (0, 1):
        np.cumsum(sums[parity::2], out=sums[parity::2])
    given = np.flatnonzero(per_mask)
    starts, counts = (np.cumsum(per_mask) - per_mask)[given], per_mask[given]
    is_odd = (np.arange(len(numbers)) - np.repeat(starts, counts)) % 2 == 1
    runs = sums[2:] - np.where(is_odd, np.repeat(sums[1 + starts], counts), np.repeat(sums[2 + starts], counts))
    runs[starts] = numbers[starts]
    return runs


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
