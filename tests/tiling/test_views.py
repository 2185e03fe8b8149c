"""Tiles of images."""

import numpy as np
import pytest

from borrow_det.tiling.views import grid_tile, windows


@pytest.mark.parametrize(
    ("size", "tile", "overlap", "expected"),
    [
        # 10 = 4 + 2 * 3: three tiles of 4 at an overlap of a quarter.
        ((4, 10), (4, 4), 0.25, [(0, 0, 4, 4), (0, 3, 4, 7), (0, 6, 4, 10)]),
        # One pixel more takes a fourth tile; all move closer together.
        ((4, 11), (4, 4), 0.25, [(0, x, 4, x + 4) for x in (0, 2, 5, 7)]),
        ((6, 9), (6, 6), 0.5, [(0, 0, 6, 6), (0, 3, 6, 9)]),
        # Eight tiles fit exactly, though 1 - 0.9 is below a tenth in floats.
        ((9, 17), (10, 10), 0.9, [(0, x, 9, x + 10) for x in range(8)]),
        # An image that a tile covers is one view.
        ((3, 3), (4, 4), 0.2, [(0, 0, 3, 3)]),
        # No overlap.
        ((8, 4), (4, 4), 0.0, [(0, 0, 4, 4), (4, 0, 8, 4)]),
    ],
)
def test_windows_of_small_images(size, tile, overlap, expected):
    views = windows(size, tile, overlap, whole=False)
    assert views.tolist() == [list(view) for view in expected]
    with_whole = windows(size, tile, overlap).tolist()
    added = [[0, 0, *size]] if len(expected) > 1 else []
    assert with_whole == views.tolist() + added


def test_windows_cover_and_overlap_as_asked():
    rng = np.random.default_rng(0)
    for _ in range(200):
        size, tile = rng.integers(1, 300, 2), rng.integers(1, 200, 2)
        overlap = rng.uniform(0, 0.8)
        views = windows(tuple(size), tuple(tile), overlap, whole=False)
        seen = np.zeros(size, bool)
        for top, left, bottom, right in views:
            assert (bottom - top, right - left) == tuple(np.minimum(size, tile))
            seen[top:bottom, left:right] = True
        assert seen.all()
        for axis in (0, 1):
            starts = np.unique(views[:, axis])
            length = min(size[axis], tile[axis])
            # Starts are whole pixels: neighbors may miss the overlap by one.
            assert (np.diff(starts) <= length * (1 - overlap) + 1).all()


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
@pytest.mark.parametrize("columns", [1, 2, 4])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5])
def test_a_grid_has_as_many_tiles_as_asked(rows, columns, overlap):
    size = (700, 930)
    tile = grid_tile(size, rows, columns, overlap)
    assert len(windows(size, tile, overlap, whole=False)) == rows * columns
