"""Validation of COCO's run-length encoded (RLE) masks, without any C code that trusts them.

pycocotools writes past its buffers when the runs of a mask are longer than its image, and returns uninitialized memory when
they are shorter, so that every mask is validated here before it is decoded there.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from flash_internimage.errors import UserError

_FIRST = 48  # the character of the value 0
_CONTINUES = 0x20  # bit of a character: more characters of the same number follow
_NEGATIVE = 0x10  # bit of the last character of a number: its sign
_BATCH = 1 << 18  # characters of compressed masks that are decoded at once
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
    encoded = [s if isinstance(s, bytes) else s.encode("utf-8", "surrogatepass") for s in strings]
    lengths = np.array([len(s) for s in encoded], dtype=np.int64)
    codes = np.frombuffer(b"".join(encoded), dtype=np.uint8).astype(np.int64) - _FIRST
    owner = np.repeat(np.arange(len(encoded)), lengths)
    malformed = np.zeros(len(encoded), dtype=bool)
    malformed[owner[(codes < 0) | (codes > 63)]] = True
    last = (codes & _CONTINUES) == 0
    ends = np.cumsum(lengths)
    nonempty = np.flatnonzero(lengths)
    malformed[nonempty[~last[ends[nonempty] - 1]]] = True  # its last number is cut off
    last[ends[nonempty] - 1] = True  # so that numbers do not extend into the next mask

    stops = np.flatnonzero(last)
    starts = np.concatenate([[0], stops[:-1] + 1]) if len(stops) else stops
    digits = stops - starts + 1
    number_owner = owner[stops]
    malformed[number_owner[digits > _MAX_CHARACTERS]] = True
    digits = digits.clip(max=_MAX_CHARACTERS)
    numbers = np.zeros(len(stops), dtype=np.int64)
    for k in range(digits.max(initial=0)):
        long = np.flatnonzero(digits > k)
        numbers[long] |= (codes[starts[long] + k] & 0x1F) << (5 * k)
    negative = (codes[stops] & _NEGATIVE) != 0
    numbers[negative] |= -1 << (5 * digits[negative])

    per_mask = np.bincount(number_owner, minlength=len(encoded))
    runs = _undo_differences(numbers, per_mask)
    shortest, total = np.zeros((2, len(encoded)), dtype=np.int64)
    first = (np.cumsum(per_mask) - per_mask)[nonempty]
    if len(nonempty):
        shortest[nonempty] = np.minimum.reduceat(runs, first)
        total[nonempty] = np.add.reduceat(runs, first)
    for i in np.flatnonzero(malformed | (shortest < 0) | (total != np.asarray(pixels))).tolist():
        if malformed[i]:
            yield i, f"whose counts are not a compressed run-length encoding: {_short(strings[i])}"
        elif shortest[i] < 0:
            yield i, f"whose counts should not be negative, but include {shortest[i]}: {_short(strings[i])}"
        else:
            yield (
                i,
                f"whose counts should sum to {pixels[i]} (height x width), but sum to {total[i]}: {_short(strings[i])}",
            )


def crop_columns(counts: bytes, height: int, left: int, right: int) -> bytes:
    """Return a compressed mask without ``left`` columns of zeros on its left side and ``right`` on its right side.

    Runs go down the columns, so that only the first and the last run change. The result is only valid if the mask starts
    and ends with runs of that many zeros, which the caller has to validate (:func:`problems_of_strings`).

    Args:
        counts: a valid compressed mask.
        height: height of the mask in pixels.
        left: number of columns to remove on the left.
        right: number of columns to remove on the right.
    """
    if left:
        end = next(i for i, code in enumerate(counts) if not (code - _FIRST) & _CONTINUES) + 1
        counts = _encode(_decode(counts[:end]) - left * height) + counts[end:]
    if right:
        start = len(counts) - 1
        while start > 0 and (counts[start - 1] - _FIRST) & _CONTINUES:
            start -= 1
        # Where the last run is stored as a difference, nothing else refers to it.
        counts = counts[:start] + _encode(_decode(counts[start:]) - right * height)
    return counts


def _decode(characters: bytes) -> int:
    number = sum(((code - _FIRST) & 0x1F) << (5 * k) for k, code in enumerate(characters))
    return number - (1 << (5 * len(characters))) if (characters[-1] - _FIRST) & _NEGATIVE else number


def _encode(number: int) -> bytes:
    characters = bytearray()
    while True:
        code = number & 0x1F
        number >>= 5
        if number == (-1 if code & _NEGATIVE else 0):
            characters.append(code + _FIRST)
            return bytes(characters)
        characters.append((code | _CONTINUES) + _FIRST)


def _undo_differences(numbers: np.ndarray, per_mask: np.ndarray) -> np.ndarray:
    """Return the runs that are encoded as ``numbers``: from the fourth on, the difference to the last run but one.

    Args:
        numbers: numbers of all masks, one mask after the other.
        per_mask: how many numbers each mask has.
    """
    starts = np.cumsum(per_mask) - per_mask
    position = np.arange(len(numbers)) - np.repeat(starts, per_mask)
    # Runs 1, 3, 5, ... and runs 2, 4, 6, ... are two chains, run 0 is alone. A cumulative sum over the chains of all masks,
    # less its value before a mask, undoes the differences.
    runs = numbers.copy()
    for chain in ((position % 2) == 1, (position % 2 == 0) & (position > 0)):
        sums = np.cumsum(np.where(chain, numbers, 0))
        before = np.concatenate([[0], sums])[starts]
        runs[chain] = (sums - np.repeat(before, per_mask))[chain]
    return runs


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
