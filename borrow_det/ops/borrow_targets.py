"""Targets of matching: the source positions that descriptors should borrow from."""

from typing import NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from borrow_det.ops import boxes as box_ops
from borrow_det.ops.assignment import Assignment

# Boxes of whole pixels, normalized, would miss the ratio of sides by rounding.
_SIDE_TOLERANCE = 1e-5
_Sides = TypeVar("_Sides", Array, np.ndarray)


class Lenders(NamedTuple):
    """The lenders of G objects among L objects, and the source positions in them."""

    lend: Array  # bool [..., G, L], lenders of each object.
    inside: Array  # bool [..., L, T], positions whose centers are in each box.

    @property
    def sources(self) -> Array:
        """Source positions of each object: those in its lenders, bool [..., G, T]."""
        return (self.lend.astype(jnp.float32) @ self.inside.astype(jnp.float32)) > 0


class BorrowTargets(NamedTuple):
    """Source positions that the descriptors of one level should borrow from."""

    sources: Array  # bool [B, G, T], source positions of each object.
    box_index: Array  # int32 [B, R], index of each descriptor's object.
    counts: Array  # bool [B, R], descriptors whose object has a source position.
    # The lenders one by one; None if the loss rewards all of them together.
    lenders: Lenders | None = None


def is_larger(side: _Sides, other: _Sides, scale: float) -> _Sides:
    """Returns true for sides that are at least `scale` times others; any shapes."""
    return side >= (1 - _SIDE_TOLERANCE) * scale * other


class Objects(NamedTuple):
    """Annotated objects of an image."""

    boxes: Array  # float32 [G, 4], normalized to the network's input.
    labels: Array  # int32 [G]
    valid: Array  # bool [G]; other objects neither borrow nor lend.


def lenders(boxes: Array, labels: Array, valid: Array, scale: float) -> Array:
    """Finds the lenders of each object: bool [G, G], borrowers by rows.

    Lenders are objects of the same class whose side is at least `scale` times that of
    the borrower. The arguments are those of `Objects`, and the smallest ratio.
    """
    objects = Objects(boxes, labels, valid)
    return lenders_in(objects, objects, scale)


def sources_in(
    borrowers: Objects, others: Objects, centers: Array, scale: float
) -> Array:
    """Finds the source positions that objects should borrow from.

    Position t is one for object g if its center is inside a lender of g: a box of the
    same class whose side (square root of its area) is at least `scale` times as large.
    Sides are compared as shares of the network's input.

    Args:
      borrowers: the G objects of the image that borrows.
      others: objects of the image that lends: the same, or a reference.
      centers: float32 [T, 2], `[y, x]` of the source positions in that image.
      scale: smallest ratio of the lender's side to the borrower's.

    Returns:
      bool [G, T].
    """
    return lenders_among(borrowers, others, centers, scale).sources


def lenders_among(
    borrowers: Objects, others: Objects, centers: Array, scale: float
) -> Lenders:
    """Finds the lenders of each borrower and the positions in them (`sources_in`)."""
    lend = lenders_in(borrowers, others, scale)
    return Lenders(lend, box_ops.contains(others.boxes, centers))


def in_reach(boxes: Array, reach: float) -> Array:
    """Marks pairs of boxes [G, 4] whose centers are at most `reach` apart: bool [G, G].

    The distance is the larger one of the vertical and the horizontal distance, in
    normalized coordinates.
    """
    centers = box_ops.to_centers(boxes)[:, :2]
    offsets = centers[:, None] - centers[None]
    return jnp.abs(offsets).max(axis=-1) <= reach


def lenders_in(borrowers: Objects, others: Objects, scale: float) -> Array:
    """Finds the lenders of each borrower among others, bool [G, G']; see `lenders`."""
    # Without `> 0`, an object of no area would be its own lender.
    own, side = (jnp.sqrt(box_ops.area(x.boxes)) for x in (borrowers, others))
    larger = is_larger(side[None, :], own[:, None], scale)
    same = others.labels[None, :] == borrowers.labels[:, None]
    sized = ((side > 0) & others.valid)[None, :]
    return larger & same & sized & ((own > 0) & borrowers.valid)[:, None]


def descriptor_objects(
    assignment: Assignment, start: int, positions: int, per_position: int
) -> tuple[Array, Array]:
    """Finds the object of each descriptor of one level.

    The anchors of a descriptor may be assigned to several objects; it then takes the
    one that its anchors overlap most. Ties go to the first anchor.

    Args:
      assignment: assignment of all A anchors.
      start: index of the level's first anchor.
      positions: R, the number of positions of the level.
      per_position: anchors per position.

    Returns:
      The index of the object, int32 [R], and whether there is one, bool [R].
    """

    def level(values: Array) -> Array:
        return values[start : start + positions * per_position].reshape(positions, -1)

    score = jnp.where(level(assignment.positive), level(assignment.iou), -1.0)
    best = jnp.argmax(score, axis=1, keepdims=True)
    index = jnp.take_along_axis(level(assignment.box_index), best, axis=1)[:, 0]
    return index, jnp.any(level(assignment.positive), axis=1)
