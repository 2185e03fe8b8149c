"""Which anchor answers for which object, and what a descriptor should borrow from."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from borrow_det.errors import check_choice
from borrow_det.ops import boxes as box_ops

IGNORED = ("ignored", "negative", "positive")


class Assignment(NamedTuple):
    """What each of A anchors is responsible for."""

    index: Array  # int32 [A]: the object (row of `boxes`); 0 where not positive.
    positive: Array  # bool [A]
    ignored: Array  # bool [A]: neither positive nor a possible negative.
    iou: Array  # float32 [A]: overlap with the assigned object, 0 where none.


def objects(valid: Array, ignore: Array, ignored: str) -> Array:
    """Which boxes are objects to learn: bool [G], by `loss.ignored`.

    Raises:
      InputError: `ignored` is none of IGNORED.
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
    """Assigns anchors [A, 4] to one image's objects [G, 4].

    An anchor takes the object that it overlaps most if their IoU is at least
    `positive_iou`; then every object gets its best anchor, whatever the overlap, by
    the rule of `best_anchor`. Ties go to the lower index.

    Args:
      boxes: float32 [G, 4], normalised corners.
      valid: bool [G], false on padding.
      ignore: bool [G], crowds and difficult objects.
      anchors: float32 [A, 4].
      positive_iou: threshold in (0, 1].
      best_anchor: `bipartite` (`bipartite_match`, as MatchBBox of the original SSD in
        Caffe) or `each` (`claim_each`, as torchvision's SSDMatcher).
      ignored: what boxes to ignore are. `ignored`: an anchor that lies for at least
        `positive_iou` of its own area in one and is not positive is no negative
        either, since what it sees may be an object. `negative`: they are nothing.
        `positive`: they are objects like others.

    Raises:
      InputError: `best_anchor` or `ignored` is none of these.
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
        index=jnp.where(positive, index, 0),
        positive=positive,
        ignored=hidden & ~positive,
        iou=jnp.where(positive, chosen, 0.0),
    )


def bipartite_match(iou: Array) -> Array:
    """Greedy one-to-one matching of rows (objects) to columns (anchors).

    The largest IoU of all is matched first, then the largest among the rows and
    columns that are left, until each row with an overlap above zero has a column of
    its own. Ties go to the lower row, then the lower column.

    Args:
      iou: float32 [G, A]; rows that are no objects hold values <= 0.

    Returns:
      int32 [A]: the row of each column, -1 where it has none.

    Taken one by one this needs G passes. A pair that is the best of both its row and
    its column is taken by the one-by-one rule too, whatever happens elsewhere, so each
    pass takes all such pairs at once; there is always one, and a few passes do.
    """
    rows, columns = iou.shape

    def unfinished(state):
        _, _, progress = state
        return progress

    def take_mutual_best(state):
        owner, matched, _ = state
        open_pairs = ~matched[:, None] & (owner < 0)[None]
        left = jnp.where(open_pairs, iou, 0.0)
        best_column = jnp.argmax(left, axis=1)
        # Of the columns that some row wants: few among thousands.
        wanted = left[:, best_column]
        row_ids = jnp.arange(rows)
        mutual = (jnp.argmax(wanted, axis=0) == row_ids) & (jnp.diagonal(wanted) > 0)
        # Rows without a pair write past the end, where the update is dropped.
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
    """Every row (object) claims its best column (anchor), at an overlap of zero, too.

    Of several rows that want one column the last has it, and the others none.

    Args:
      iou: float32 [G, A]; rows that are no objects hold values < 0.

    Returns:
      int32 [A]: the row of each column, -1 where it has none.
    """
    rows, columns = iou.shape
    # Rows that are no objects write past the end, where the update is dropped.
    column = jnp.where(jnp.max(iou, axis=1) >= 0, jnp.argmax(iou, axis=1), columns)
    owner = jnp.full_like(iou[0], -1, dtype=jnp.int32)
    return owner.at[column].max(jnp.arange(rows, dtype=jnp.int32), mode="drop")


BEST_ANCHOR = {"bipartite": bipartite_match, "each": claim_each}
