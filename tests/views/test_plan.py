"""The views of an image: tiles that cover it, and their scaled and flipped copies."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_internimage.views.plan import SCALES, ViewOptions, cut_edges, tile_starts, tile_windows

SIDES = st.integers(1, 300)
OVERLAPS = st.floats(0, 0.95)


@given(SIDES, SIDES, st.integers(1, 120), OVERLAPS)
def test_tiles_cover_every_pixel_and_lie_in_the_image(height, width, tile, overlap):
    if (height / max(tile * (1 - overlap), 1)) * (width / max(tile * (1 - overlap), 1)) > 5000:
        return
    covered = np.zeros((height, width), dtype=bool)
    for x0, y0, x1, y1 in tile_windows(height, width, tile, overlap):
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        assert (x1 - x0, y1 - y0) == (min(tile, width), min(tile, height))
        covered[y0:y1, x0:x1] = True
    assert covered.all()


@given(SIDES, st.integers(1, 120), OVERLAPS)
def test_neighbors_overlap_as_much_as_asked_and_no_tile_is_needless(length, tile, overlap):
    starts = tile_starts(length, tile, overlap)
    gaps = np.diff(starts)
    step = max(int(np.floor(tile * (1 - overlap))), 1)
    assert (gaps <= step).all()
    assert (gaps > 0).all()
    # One tile less, with the overlap that was asked for, would not reach the end.
    assert len(starts) == 1 or (len(starts) - 2) * step + tile < length


def test_tiles_by_hand():
    assert tile_starts(1000, 640, 0.2) == [0, 360]
    assert tile_starts(1300, 640, 0.25) == [0, 330, 660]
    assert tile_windows(640, 1000, 640, 0.2) == [(0, 0, 640, 640), (360, 0, 1000, 640)]


def test_the_whole_image_is_a_view_once():
    assert [view.window for view in ViewOptions(tile=64).views(50, 60)] == [(0, 0, 60, 50)]
    assert [view.window for view in ViewOptions(tile=50).views(50, 60)] == [(0, 0, 60, 50), (0, 0, 50, 50), (10, 0, 60, 50)]
    assert ViewOptions().is_whole_image


def test_augmentation_adds_each_scale_and_its_mirror_image():
    views = ViewOptions(tta=True).views(50, 60)
    assert [(view.scale, view.flipped) for view in views] == [(scale, flipped) for scale in SCALES for flipped in (False, True)]
    assert len(ViewOptions(tile=50, tta=True).views(50, 60)) == 3 * 2 * len(SCALES)


def test_edges_within_the_image_cut():
    assert cut_edges((0, 0, 60, 50), 50, 60) == (False, False, False, False)
    assert cut_edges((10, 0, 50, 40), 50, 60) == (True, False, True, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"tile": 0}, "tile should be a number of pixels of 1 or more, got 0", id="tile"),
        pytest.param({"overlap": 1.0}, "overlap should be a fraction of the tile from 0 to below 1, got 1.0", id="overlap"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ViewOptions(**arguments)
