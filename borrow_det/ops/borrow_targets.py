"""Source positions that the descriptors of a level should borrow from."""

import jax.numpy as jnp
from jax import Array

from borrow_det.ops import boxes as box_ops
from borrow_det.ops.assignment import Assignment

# Boxes of whole pixels, normalized, would miss the ratio of sides by rounding.
_SIDE_TOLERANCE = 1e-5


def is_larger(side: Array, other: Array, scale: float) -> Array:
    """Whether sides are at least `scale` times others; NumPy's or JAX's, any shapes."""
    return side >= (1 - _SIDE_TOLERANCE) * scale * other


def lenders(boxes: Array, labels: Array, valid: Array, scale: float) -> Array:
    """Of which objects each one should borrow: bool [G, G], borrowers by rows.

    Those of its class whose side is at least `scale` times its own; arguments as of
    `borrow_sources`.
    """
    side = jnp.sqrt(box_ops.area(boxes))
    larger = is_larger(side[None, :], side[:, None], scale)
    same = labels[None, :] == labels[:, None]
    # An object of no area would find itself large enough.
    sized = (side > 0) & valid
    return larger & same & sized[None, :] & sized[:, None]


def borrow_sources(
    boxes: Array, labels: Array, valid: Array, centers: Array, scale: float
) -> Array:
    """Where each object should borrow from: bool [G, T].

    Position t counts for object g if its centre lies in a box of g's class whose side
    (square root of its area) is at least `scale` times that of g.

    Args:
      boxes: float32 [G, 4].
      labels: int32 [G].
      valid: bool [G]; others neither borrow nor are borrowed from.
      centers: float32 [T, 2], `[y, x]` of the deeper positions.
      scale: smallest ratio of sides (DESIGN: 2).
    """
    lends = lenders(boxes, labels, valid, scale)
    holds = box_ops.contains(boxes, centers)
    return (lends.astype(jnp.float32) @ holds.astype(jnp.float32)) > 0


def descriptor_objects(
    assignment: Assignment, start: int, positions: int, per_position: int
) -> tuple[Array, Array]:
    """The object of each descriptor of one level: (int32 [R], bool [R] has one).

    A descriptor's anchors may be assigned to several objects; it then belongs to the
    one that its anchors overlap most, ties to the first anchor.

    Args:
      assignment: of all A anchors.
      start: index of the level's first anchor.
      positions: R, the level's positions.
      per_position: anchors at a position.
    """

    def level(values):
        return values[start : start + positions * per_position].reshape(positions, -1)

    score = jnp.where(level(assignment.positive), level(assignment.iou), -1.0)
    best = jnp.argmax(score, axis=1, keepdims=True)
    index = jnp.take_along_axis(level(assignment.index), best, axis=1)[:, 0]
    return index, jnp.any(level(assignment.positive), axis=1)
