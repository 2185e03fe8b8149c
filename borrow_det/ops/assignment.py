"""Assignment of anchors to objects."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from borrow_det.errors import check_choice
from borrow_det.ops import boxes as box_ops

IGNORED = ("ignored", "negative", "positive")


class Assignment(NamedTuple):
    """Assignment of A anchors to the objects of an image."""

    box_index: Array  # int32 [A], row of the object in `boxes`; 0 if not positive.
    positive: Array  # bool [A]
    ignored: Array  # bool [A], neither positive nor a possible negative.
    iou: Array  # float32 [A], overlap with the object; 0 if not positive.


def objects(valid: Array, ignore: Array, ignored: str) -> Array:
    """Returns which boxes are objects to learn, bool [G].

    Args:
      valid: bool [G], false on padding.
      ignore: bool [G], crowds and difficult objects.
      ignored: treatment of the latter, `loss.ignored`; see `assign_anchors`.

    Raises:
      InputError: `ignored` is not one of IGNORED.
    """
    check_choice("loss.ignored", ignored, IGNORED)
    return valid if ignored == "positive" else valid & ~ignore


def assign_anchors(
    boxes: Array,
    valid: Array,
    ignore: Array,
    anchors: Array,
    positive_iou: float,
    *,
    best_anchor: str,
    ignored: str,
) -> Assignment:
    """Assigns anchors to the objects of one image.

    An anchor is assigned to the object that it overlaps most if their IoU is at least
    `positive_iou`. In addition, every object gets its best anchor at any overlap, by
    the rule `best_anchor`. Ties go to the lower index.

    Args:
      boxes: float32 [G, 4], normalized corners.
      valid: bool [G], false on padding.
      ignore: bool [G], crowds and difficult objects.
      anchors: float32 [A, 4].
      positive_iou: threshold in (0, 1].
      best_anchor: `bipartite` (`bipartite_match`, as MatchBBox of the original SSD in
        Caffe) or `each` (`claim_each`, as torchvision's SSDMatcher).
      ignored: treatment of the boxes in `ignore`. `ignored`: an anchor with at least
        `positive_iou` of its own area in such a box is not a negative, since it may
        see an object. `negative`: the boxes have no effect. `positive`: they are
        objects like others.

    Raises:
      InputError: `best_anchor` or `ignored` has an unknown value.
    """
    check_choice("loss.best_anchor", best_anchor, BEST_ANCHOR)
    target = objects(valid, ignore, ignored)
    iou = jnp.where(target[:, None], box_ops.iou(boxes, anchors), -1.0)
    index = jnp.argmax(iou, axis=0)
    best = jnp.max(iou, axis=0)
    owner = BEST_ANCHOR[best_anchor](iou)
    index = jnp.where(owner >= 0, owner, index).astype(jnp.int32)
    positive = (owner >= 0) | (best >= positive_iou)
    chosen = jnp.take_along_axis(iou, index[None], axis=0)[0]

    hidden = jnp.zeros_like(positive)
    if ignored == "ignored":
        own_area = jnp.maximum(box_ops.area(anchors), 1e-12)
        inside = box_ops.intersection(boxes, anchors) / own_area[None]
        hidden = jnp.any((inside >= positive_iou) & (valid & ignore)[:, None], axis=0)
    return Assignment(
        box_index=jnp.where(positive, index, 0),
        positive=positive,
        ignored=hidden & ~positive,
        iou=jnp.where(positive, chosen, 0.0),
    )


def bipartite_match(iou: Array) -> Array:
    """Assigns rows (objects) to columns (anchors), greedily and one to one.

    The pair of largest IoU is assigned first, then the largest among the remaining rows
    and columns, until each row with an overlap above zero has a column. Ties go to the
    lower row, then to the lower column.

    Args:
      iou: float32 [G, A]; rows that are not objects have values <= 0.

    Returns:
      int32 [A], the row of each column, or -1.
    """
    # One pair per pass would take G passes. A pair that is the best of both its row and
    # its column is assigned by the greedy rule in any case, so each pass assigns all
    # such pairs. There is always one, and a few passes are enough.
    rows, columns = iou.shape

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        _, _, progress = state
        return progress

    def take_mutual_best(
        state: tuple[Array, Array, Array],
    ) -> tuple[Array, Array, Array]:
        owner, matched, _ = state
        open_pairs = ~matched[:, None] & (owner < 0)[None]
        left = jnp.where(open_pairs, iou, 0.0)
        best_column = jnp.argmax(left, axis=1)
        # Only the columns that are the best of a row: few among thousands.
        wanted = left[:, best_column]
        row_ids = jnp.arange(rows)
        mutual = (jnp.argmax(wanted, axis=0) == row_ids) & (jnp.diagonal(wanted) > 0)
        # Rows without a pair write beyond the end, and the update is dropped.
        column = jnp.where(mutual, best_column, columns)
        owner = owner.at[column].set(row_ids.astype(jnp.int32), mode="drop")
        return owner, matched | mutual, jnp.any(mutual)

    # Derived from the input, so that under shard_map or vmap they vary as it does.
    owner = jnp.full_like(iou[0], -1, dtype=jnp.int32)
    matched = jnp.zeros_like(iou[:, 0], dtype=bool)
    state = (owner, matched, jnp.any(iou > 0))
    owner, _, _ = jax.lax.while_loop(unfinished, take_mutual_best, state)
    return owner


def claim_each(iou: Array) -> Array:
    """Assigns every row (object) to its best column (anchor), at any overlap.

    If several rows have the same best column, the last one gets it, and the others get
    none.

    Args:
      iou: float32 [G, A]; rows that are not objects have values < 0.

    Returns:
      int32 [A], the row of each column, or -1.
    """
    rows, columns = iou.shape
    # Rows that are not objects write beyond the end, and the update is dropped.
    column = jnp.where(jnp.max(iou, axis=1) >= 0, jnp.argmax(iou, axis=1), columns)
    owner = jnp.full_like(iou[0], -1, dtype=jnp.int32)
    return owner.at[column].max(jnp.arange(rows, dtype=jnp.int32), mode="drop")


BEST_ANCHOR = {"bipartite": bipartite_match, "each": claim_each}
