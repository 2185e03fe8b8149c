"""Merging of the detections of tiles."""

import numpy as np
import pytest

from borrow_det.tiling import merging
from borrow_det.tiling.merging import ViewDetections
from borrow_det.tiling.views import windows


def found(*rows, label=0):
    """Detections of rows (y_min, x_min, y_max, x_max, score)."""
    rows = np.array(rows, float).reshape(-1, 5)
    return ViewDetections(rows[:, :4], rows[:, 4], np.full(len(rows), label))


# Two tiles of 100 x 120 that overlap in columns 80 to 120, and the entire image.
SIZE = (100, 200)
WINDOWS = np.array([(0, 0, 100, 120), (0, 80, 100, 200), (0, 0, 100, 200)])


def merged(left, right, whole=None, iou=0.45):
    views = [left, right] + ([] if whole is None else [whole])
    return merging.merge(views, WINDOWS[: len(views)], SIZE, iou)


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


# --- nested boxes


@pytest.mark.parametrize("part_score", [0.7, 0.95])
@pytest.mark.parametrize("turned", [False, True])
def test_a_tight_box_of_a_part_of_an_object_is_no_second_object(part_score, turned):
    # A car from 50 to 190, which the left tile cuts at 120 and boxes from 88 on.
    part, car = (12, 88, 58, 120, part_score), (10, 50, 60, 190, 0.9)
    order = [1, 0, 3, 2, 4] if turned else [0, 1, 2, 3, 4]  # x for y.
    views = WINDOWS[:, order[:4]]
    both = [found(np.array(row)[order]) for row in (part, car)]
    assert overlap(both[0].boxes[0], both[1].boxes[0]) < 0.45  # NMS keeps both.
    result = merging.merge(
        [both[0], found(), both[1]], views, tuple(views[2, 2:]), 0.45
    )
    assert result.boxes.tolist() == both[1].boxes.tolist()
    assert result.scores.tolist() == [max(part_score, 0.9)]


@pytest.mark.parametrize(
    ("left", "right", "whole"),
    [
        # Complete in the tile: a car in front of a much larger one.
        ([(12, 88, 58, 110, 0.7)], [], [(10, 50, 60, 190, 0.9)]),
        # Cut, but lower than the larger one at the border.
        ([(40, 88, 60, 120, 0.7)], [], [(10, 50, 60, 190, 0.9)]),
        # Cut, and outside of the other one by two thirds.
        ([(10, 20, 60, 120, 0.7)], [], [(10, 86, 60, 190, 0.9)]),
        # The larger one is a part, too, and found in the same view.
        ([(10, 20, 60, 120, 0.9), (12, 92, 58, 120, 0.7)], [], []),
        # The larger one is a part, and the smaller one complete.
        ([(10, 20, 60, 120, 0.9)], [(12, 88, 58, 104, 0.7)], []),
    ],
)
def test_nested_objects_both_stay(left, right, whole):
    result = merged(found(*left), found(*right), found(*whole))
    expected = [list(row[:4]) for row in (*left, *right, *whole)]
    assert sorted(result.boxes.tolist()) == sorted(expected)


SMALL, LARGE = (10, 30, 60, 60), (5, 25, 65, 85)  # An IoU of 0.42.


@pytest.mark.parametrize("better", ["tile", "whole"])
def test_nested_boxes_of_two_views_are_one_object_if_neither_view_shows_both(better):
    scores = (0.9, 0.5) if better == "tile" else (0.5, 0.9)
    result = merged(found((*SMALL, scores[0])), found(), found((*LARGE, scores[1])))
    assert overlap(np.array(SMALL), np.array(LARGE)) < 0.45  # NMS keeps both.
    assert result.boxes.tolist() == [list(SMALL if better == "tile" else LARGE)]
    assert result.scores.tolist() == [0.9]


@pytest.mark.parametrize(
    ("left", "whole"),
    [
        ([(*SMALL, 0.7)], [(*SMALL, 0.5), (*LARGE, 0.9)]),
        ([(*SMALL, 0.7), (*LARGE, 0.8)], [(*LARGE, 0.9)]),
    ],
)
def test_nested_objects_stay_if_one_view_shows_both(left, whole):
    result = merged(found(*left), found(), found(*whole))
    assert result.boxes.tolist() == [list(LARGE), list(SMALL)]
    assert result.scores.tolist() == [0.9, 0.7]


def test_an_unlikely_box_is_no_sign_of_a_second_object():
    # It stays, as in a view alone; the likely one of the tile does not.
    unlikely = (*SMALL, 0.2)
    result = merged(found((*SMALL, 0.7)), found(), found((*LARGE, 0.9), unlikely))
    assert result.boxes.tolist() == [list(LARGE), list(SMALL)]
    assert result.scores.tolist() == [0.9, 0.2]


def test_nested_objects_stay_if_a_tile_shows_a_part_of_the_larger_one():
    # The tile cuts a bus at 120 in front of which a car is complete.
    car, bus = (20, 72, 65, 112), (5, 50, 65, 135)
    result = merged(
        found((*car, 0.7), (5, 50, 65, 120, 0.6)), found(), found((*bus, 0.9))
    )
    assert result.boxes.tolist() == [list(bus), list(car)]
    assert result.scores.tolist() == [0.9, 0.7]


def test_a_part_belongs_to_the_nested_object_that_it_fits_best():
    small, large = (12, 100, 58, 140, 0.6), (10, 50, 60, 190, 0.9)
    result = merged(found((12, 100, 58, 120, 0.7)), found(), found(small, large))
    assert result.boxes.tolist() == [list(large[:4]), list(small[:4])]
    assert result.scores.tolist() == [0.9, 0.7]


def test_a_tight_part_of_an_object_that_no_view_shows_completely_is_dropped():
    # The right tile sees the car from 80 on, but boxes it up to 97 only.
    result = merged(found((10, 20, 60, 120, 0.7)), found((12, 80, 58, 97, 0.8)))
    assert result.boxes.tolist() == [[10, 20, 60, 120]]
    assert result.scores.tolist() == [0.8]


def test_tight_parts_of_separate_objects_leave_one_box_for_each():
    rng = np.random.default_rng(0)
    size = (400, 600)
    views = windows(size, (200, 200), 0.2)
    for _ in range(50):
        # One object in each cell of a grid of 2 x 3, so that none touches another.
        corner = np.array([[y, x] for y in (0, 200) for x in (0, 200, 400)])
        low = corner + rng.uniform(5, 60, (6, 2))
        objects = np.concatenate([low, corner + rng.uniform(140, 195, (6, 2))], axis=1)
        lists = [found(*np.column_stack([objects, rng.uniform(0, 1, 6)]))]
        for view in views[:-1]:
            parts = np.concatenate(
                [np.maximum(objects[:, :2], view[:2]), objects[:, 2:]], axis=1
            )
            parts[:, 2:] = np.minimum(objects[:, 2:], view[2:])
            sides = parts[:, 2:] - parts[:, :2]
            parts, sides = (
                parts[(sides > 8).all(axis=1)],
                sides[(sides > 8).all(axis=1)],
            )
            # A side that the tile does not cut moves inwards by up to 70 %.
            moves = rng.uniform(0, 0.7, (len(parts), 4)) * np.tile(sides, 2)
            near = np.abs(parts - view) < 1
            cut = near.any(axis=1)
            axis = near[:, :2] | near[:, 2:]  # Only at right angles to the border.
            axis &= axis.sum(axis=1, keepdims=True) == 1
            moves *= np.tile(axis, 2) & ~near & cut[:, None]
            parts += moves * [1, 1, -1, -1]
            lists.insert(
                -1, found(*np.column_stack([parts, rng.uniform(0, 1, len(parts))]))
            )
        result = merging.merge(lists, views, size, 0.45)
        np.testing.assert_allclose(
            sorted(result.boxes.tolist()), sorted(objects.tolist())
        )


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
    views = windows(size, (120, 120), 1 / 3, whole=False)
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
    result = merging.merge(parts, views, size, 0.45)
    assert result.boxes.tolist() == [whole.tolist()]
    assert result.scores.tolist() == [0.8]


def test_merging_of_boxes_of_one_size_is_greedy_nms_if_none_is_cut():
    rng = np.random.default_rng(1)
    size, views = (100, 100), np.array([(0, 0, 100, 100)] * 2)
    for iou in (0.3, 0.5, 0.6):  # Of equal boxes, none is inside another.
        boxes = rng.uniform(0, 70, (60, 2))
        boxes = np.concatenate([boxes, boxes + 30], axis=1)
        scores = rng.permutation(60) / 60
        halves = [
            ViewDetections(boxes[half], scores[half], np.zeros(30, int))
            for half in (slice(0, 30), slice(30, 60))
        ]
        result = merging.merge(halves, views, size, iou)
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
    result = merging.merge([only], np.array([(0, 0, 10, 10)]), (10, 10), 0.45)
    assert result is only
