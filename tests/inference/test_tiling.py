"""Tiles of images, and the merging of their detections."""

import numpy as np
import pytest

from borrow_det.inference import tiling
from borrow_det.inference.tiling import ViewDetections


def found(*rows, label=0):
    """Detections of rows (y_min, x_min, y_max, x_max, score)."""
    rows = np.array(rows, float).reshape(-1, 5)
    return ViewDetections(rows[:, :4], rows[:, 4], np.full(len(rows), label))


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
    views = tiling.windows(size, tile, overlap, whole=False)
    assert views.tolist() == [list(view) for view in expected]
    with_whole = tiling.windows(size, tile, overlap).tolist()
    added = [[0, 0, *size]] if len(expected) > 1 else []
    assert with_whole == views.tolist() + added


def test_windows_cover_and_overlap_as_asked():
    rng = np.random.default_rng(0)
    for _ in range(200):
        size, tile = rng.integers(1, 300, 2), rng.integers(1, 200, 2)
        overlap = rng.uniform(0, 0.8)
        views = tiling.windows(tuple(size), tuple(tile), overlap, whole=False)
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
    tile = tiling.grid_tile(size, rows, columns, overlap)
    assert len(tiling.windows(size, tile, overlap, whole=False)) == rows * columns


# Two tiles of 100 x 120 that overlap in columns 80 to 120, and the entire image.
SIZE = (100, 200)
WINDOWS = np.array([(0, 0, 100, 120), (0, 80, 100, 200), (0, 0, 100, 200)])


def merged(left, right, whole=None, iou=0.45):
    views = [left, right] + ([] if whole is None else [whole])
    return tiling.merge(views, WINDOWS[: len(views)], SIZE, iou)


def test_an_object_inside_two_tiles_is_found_once():
    result = merged(found((10, 85, 30, 112, 0.8)), found((10, 85, 30, 112, 0.9)))
    assert result.boxes.tolist() == [[10, 85, 30, 112]]
    assert result.scores.tolist() == [0.9]


def test_a_part_is_dropped_if_another_tile_contains_the_object():
    # The left tile cuts the object at 120; its part has the higher score.
    result = merged(found((10, 100, 30, 120, 0.9)), found((10, 100, 30, 150, 0.6)))
    assert result.boxes.tolist() == [[10, 100, 30, 150]]
    assert result.scores.tolist() == [0.9]


def test_parts_of_an_object_larger_than_a_tile_are_joined_exactly():
    result = merged(found((10, 20, 30, 120, 0.7)), found((10, 80, 30, 190, 0.9)))
    assert result.boxes.tolist() == [[10, 20, 30, 190]]
    assert result.scores.tolist() == [0.9]


def test_a_box_in_the_entire_image_replaces_parts():
    result = merged(
        found((10, 20, 30, 120, 0.7)),
        found((10, 80, 30, 190, 0.9)),
        found((11, 21, 31, 189, 0.5)),
    )
    assert result.boxes.tolist() == [[11, 21, 31, 189]]
    assert result.scores.tolist() == [0.9]


def test_a_large_box_keeps_a_small_part_inside_it():
    # A person cut by the border in front of a house, which only the image contains.
    result = merged(
        found((10, 110, 30, 120, 0.7)), found(), found((0, 50, 90, 190, 0.9))
    )
    assert sorted(result.boxes.tolist()) == [[0, 50, 90, 190], [10, 110, 30, 120]]


def test_neighbors_at_a_border_are_not_joined():
    # Different rows: nothing in common between 80 and 120.
    result = merged(found((10, 60, 30, 120, 0.7)), found((40, 80, 60, 150, 0.9)))
    assert sorted(result.boxes.tolist()) == [[10, 60, 30, 120], [40, 80, 60, 150]]


def test_a_box_at_the_images_own_border_is_not_cut():
    # It ends at the left tile's border too, but the image ends there: the box of the
    # higher score stays, as in any NMS.
    result = merged(found((10, 0, 30, 40, 0.9)), found(), found((12, 0, 32, 44, 0.5)))
    assert result.boxes.tolist() == [[10, 0, 30, 40]]


def test_classes_are_not_merged():
    result = merged(
        found((10, 85, 30, 112, 0.8)), found((10, 85, 30, 112, 0.9), label=1)
    )
    assert result.labels.tolist() == [1, 0]
    assert result.scores.tolist() == [0.9, 0.8]


def test_an_object_over_four_tiles_is_joined_from_its_four_parts():
    size = (200, 200)
    views = tiling.windows(size, (120, 120), 1 / 3, whole=False)
    assert len(views) == 4
    whole = np.array([50, 60, 170, 150.0])
    parts = [
        found(
            (
                *np.maximum(whole[:2], view[:2]),
                *np.minimum(whole[2:], view[2:]),
                0.5 + 0.1 * i,
            )
        )
        for i, view in enumerate(views)
    ]
    result = tiling.merge(parts, views, size, 0.45)
    assert result.boxes.tolist() == [whole.tolist()]
    assert result.scores.tolist() == [0.8]


def test_merging_is_greedy_nms_if_no_box_is_cut():
    rng = np.random.default_rng(1)
    size, views = (100, 100), np.array([(0, 0, 100, 100)] * 2)
    for iou in (0.3, 0.5, 0.7):
        boxes = rng.uniform(0, 70, (60, 2))
        boxes = np.concatenate([boxes, boxes + rng.uniform(5, 30, (60, 2))], axis=1)
        scores = rng.permutation(60) / 60
        halves = [
            ViewDetections(boxes[half], scores[half], np.zeros(30, int))
            for half in (slice(0, 30), slice(30, 60))
        ]
        result = tiling.merge(halves, views, size, iou)
        kept = []
        for i in np.argsort(-scores):
            if all(overlap(boxes[i], boxes[j]) <= iou for j in kept):
                kept.append(i)
        np.testing.assert_array_equal(result.boxes, boxes[kept])
        np.testing.assert_array_equal(result.scores, scores[kept])


def overlap(a, b):
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    both = np.prod(np.maximum(high - low, 0))
    return both / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both)


def test_empty_views_give_no_detections():
    result = merged(found(), found())
    assert result.boxes.shape == (0, 4)
    assert len(result.scores) == len(result.labels) == 0


def test_a_single_view_is_returned_unchanged():
    only = found((1, 1, 9, 9, 0.5), (1, 1, 9, 9, 0.4))
    result = tiling.merge([only], np.array([(0, 0, 10, 10)]), (10, 10), 0.45)
    assert result is only
