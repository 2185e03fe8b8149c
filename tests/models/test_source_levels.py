"""The levels that hold the source positions of a level that borrows."""

import pytest

from borrow_det.models.borrowing import BorrowingNeck
from borrow_det.models.source_levels import source_levels

# source, from_levels, the level of four that borrows, levels of its sources.
SOURCE_LEVELS = [
    ("deeper", (), 1, (2, 3)),
    ("deeper", (3, 1), 0, (1, 3)),
    ("deeper", (3, 1), 1, (3,)),
    ("deconvolved", (), 1, (1,)),
    ("same", (), 0, (0,)),
]


@pytest.mark.parametrize(("source", "from_levels", "n", "expected"), SOURCE_LEVELS)
def test_levels_of_the_source_positions(source, from_levels, n, expected):
    borrow = BorrowingNeck(source=source, from_levels=from_levels)
    assert source_levels(borrow, n, 4) == expected
