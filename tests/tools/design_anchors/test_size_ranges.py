"""Covered shares of size ranges."""

import math

import numpy as np
import pytest

from borrow_det.tools.design_anchors import size_ranges


def test_shares_are_counted_within_cocos_ranges():
    sizes = np.array([31.9, 32.0, 95.9, 50.0, 96.0])
    covered = np.array([True, False, True, False, True])
    shares = size_ranges.shares_within(covered, sizes)
    assert shares.tolist() == pytest.approx([1, 1 / 3, 1])
    assert [*size_ranges.RANGES] == ["small", "medium", "large"]


def test_a_range_without_objects_has_no_share_and_no_weight():
    shares = size_ranges.shares_within(np.array([True, False]), np.array([5.0, 200.0]))
    assert math.isnan(shares[1])
    assert shares[[0, 2]].tolist() == [1, 0]
    assert size_ranges.weighted(shares, (2, 1, 1)) == pytest.approx(2 / 3)


def test_small_objects_weigh_as_much_as_all_others_by_default():
    shares = np.array([0.2, 0.6, 1.0])
    assert size_ranges.weighted(shares, size_ranges.WEIGHTS) == pytest.approx(0.5)
