"""The views of an image on which a model detects objects: the whole image, tiles, and scaled and flipped copies of these."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from flash_internimage.errors import UserError

Window: TypeAlias = "tuple[int, int, int, int]"
"""(x0, y0, x1, y1) in pixels of an image; x1 and y1 exclusive."""

SCALES = (1.0, 0.75, 1.25)
"""Scales of test-time augmentation, relative to the size at which the model is evaluated."""


@dataclass(frozen=True)
class View:
    """A window of an image, resized for the model.

    Attributes:
        window: the window.
        scale: factor on the size to which the mapper resizes the window.
        flipped: whether the view is flipped horizontally.
    """

    window: Window
    scale: float = 1.0
    flipped: bool = False


@dataclass(frozen=True)
class ViewOptions:
    """Which views of an image a model sees, beside the whole image.

    Attributes:
        tile: side of square tiles, in pixels of the image; None: no tiles.
        overlap: smallest overlap of neighboring tiles, as a fraction of their side.
        tta: whether to add the test-time augmentations: each window at all ``SCALES``, and flipped.

    Raises:
        UserError: a value is out of range.
    """

    tile: int | None = None
    overlap: float = 0.2
    tta: bool = False

    def __post_init__(self) -> None:
        if self.tile is not None and self.tile < 1:
            raise UserError(f"tile should be a number of pixels of 1 or more, got {self.tile}")
        if not 0 <= self.overlap < 1:
            raise UserError(f"overlap should be a fraction of the tile from 0 to below 1, got {self.overlap}")

    @property
    def is_whole_image(self) -> bool:
        """Whether the whole image is the only view."""
        return self.tile is None and not self.tta

    def __str__(self) -> str:
        tiles = [] if self.tile is None else [f"tiles of {self.tile} pixels"]
        return " with ".join([*tiles, *(["test-time augmentation"] if self.tta else [])]) or "whole images"

    def views(self, height: int, width: int) -> list[View]:
        """The views of an image of this size in pixels: of the whole image first, then of each tile."""
        whole = (0, 0, width, height)
        tiles = [] if self.tile is None else tile_windows(height, width, self.tile, self.overlap)
        windows = [whole, *(window for window in tiles if window != whole)]
        augmentations = [(scale, flipped) for scale in SCALES for flipped in (False, True)] if self.tta else [(1.0, False)]
        return [View(window, scale, flipped) for window in windows for scale, flipped in augmentations]


def tile_windows(height: int, width: int, tile: int, overlap: float) -> list[Window]:
    """Windows that cover an image, row by row; all are of the same size.

    Args:
        height, width: size of the image in pixels.
        tile: side of a window in pixels; a window is smaller where the image is.
        overlap: smallest overlap of neighboring windows, as a fraction of ``tile``.
    """
    return [
        (x, y, x + min(tile, width), y + min(tile, height))
        for y in tile_starts(height, tile, overlap)
        for x in tile_starts(width, tile, overlap)
    ]


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """First pixels of the fewest evenly spaced intervals of ``tile`` pixels that cover ``length`` pixels."""
    if length <= tile:
        return [0]
    step = max(math.floor(tile * (1 - overlap)), 1)
    gaps = math.ceil((length - tile) / step)
    return [(length - tile) * i // gaps for i in range(gaps + 1)]


def cut_edges(window: Window, height: int, width: int) -> tuple[bool, bool, bool, bool]:
    """Whether the left, upper, right and lower edge of a window lies inside the image, where it cuts through objects."""
    x0, y0, x1, y1 = window
    return x0 > 0, y0 > 0, x1 < width, y1 < height
