"""Boxes around polygons and run-length masks, against the reference's functions."""

import numpy as np
import pytest
from faster_coco_eval.core import mask as reference

from borrow_det.evaluation.segmentation import box_around


def test_the_box_of_masks_equals_the_reference():
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (1, 7), (7, 1), (5, 8), (64, 48)):
        for density in (0.02, 0.3, 0.97):
            mask = (rng.random((height, width)) < density).astype(np.uint8)
            mask[rng.integers(height), rng.integers(width)] = 1
            compressed = reference.encode(np.asfortranarray(mask))
            expected = tuple(map(float, reference.toBbox(compressed)))
            text = compressed["counts"].decode()
            size = [height, width]
            assert box_around({"size": size, "counts": text}) == expected
            changes = np.flatnonzero(np.diff(mask.T.ravel(), prepend=0))
            counts = np.diff([0, *changes, height * width]).tolist()
            assert box_around({"size": size, "counts": counts}) == expected


def test_a_run_over_columns_has_pixels_of_all_rows():
    # Columns of 4 rows: the last pixel of column 1 and the first of column 2.
    assert box_around({"size": [4, 5], "counts": [7, 2, 11]}) == (1.0, 0.0, 2.0, 4.0)
    floats = {"size": [4.0, 5.0], "counts": [7.0, 2.0, 11.0]}
    assert box_around(floats) == (1.0, 0.0, 2.0, 4.0)


def test_the_box_of_polygons_is_that_of_all_their_points():
    assert box_around([[3, 4, 5.5, 4, 5, 8]]) == (3.0, 4.0, 2.5, 4.0)
    assert box_around([[3, 4, 5, 8], [-1, 5, 0, 6]]) == (-1.0, 4.0, 6.0, 4.0)
    assert box_around([3, 4, 5, 4, 5, 8]) == (3.0, 4.0, 2.0, 4.0)
    assert box_around([[3, 4], [5, 8]]) == (3.0, 4.0, 2.0, 4.0)


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        [[]],
        [[1, 2, 3]],
        [["1", "2"]],
        [[1, True]],
        [[1, float("nan")]],
        [[1, 10**400]],
        [[[1, 2], [3, 4]]],
        [None],
        {},
        "x",
        5,
        {"size": [4, 5], "counts": [20]},  # An empty mask.
        {"size": [4, 5], "counts": [0, 21]},
        {"size": [4, 5], "counts": [5, -1, 3]},
        {"size": [4, 5], "counts": [5, 1.5]},
        {"size": [4, 5], "counts": [10**400, 2]},
        {"size": [4, 0], "counts": [2, 2]},
        {"size": [4], "counts": [2, 2]},
        {"size": "4x5", "counts": [2, 2]},
        {"size": [4, 5], "counts": None},
        {"size": [4, 5], "counts": "\x00"},
        {"size": [4, 5], "counts": "汽车"},
        {"size": [4, 5], "counts": "o"},  # The last count is incomplete.
        {"size": [4, 5], "counts": "o" * 10_000},
    ],
)
def test_other_outlines_have_no_box(segmentation):
    assert box_around(segmentation) is None
