"""The levels whose positions are the source positions of a level that borrows."""

from collections.abc import Sequence
from typing import Protocol

import ml_collections

from borrow_det.errors import InputError

SOURCES = ("deeper", "deconvolved", "same")


class HasSources(Protocol):
    """An object with the fields of config.borrow about sources."""

    source: str
    from_levels: Sequence[int]


def source_levels(
    borrow: ml_collections.ConfigDict | HasSources, n: int, num_levels: int
) -> tuple[int, ...]:
    """Returns the levels that hold the T source positions of level n, in order.

    Args:
      borrow: has the fields `source` and `from_levels` of config.borrow.
      n: the level that borrows, from 0.
      num_levels: N.

    Raises:
      InputError: `from_levels` leaves level n without source positions.
    """
    if borrow.source != "deeper":
        return (n,)
    deeper = range(n + 1, num_levels)
    if not borrow.from_levels:
        return tuple(deeper)
    levels = tuple(m for m in deeper if m in borrow.from_levels)
    if not levels or not set(borrow.from_levels) <= set(range(1, num_levels)):
        raise InputError(
            f"borrow.from_levels is {tuple(borrow.from_levels)}; it may name the "
            f"levels 1 to {num_levels - 1}, and needs a deeper one than level {n}, "
            "which borrows"
        )
    return levels
