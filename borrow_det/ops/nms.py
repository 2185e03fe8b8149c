"""Greedy non-maximum suppression with static shapes, exact at every threshold.

The greedy rule: going down the ranking, a box is kept unless a kept box of its class
above it overlaps it by more than the threshold. A suppressed box therefore suppresses
nothing, and what is kept among the best does not depend on the rest: the ranking is
gone through in parts, of which the first is mostly enough.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from borrow_det.ops import boxes as box_ops

# Candidates of a part. Fewer need more parts, each of which looks through all scores;
# more compare more pairs.
_PART = 1024
# Of so many values only the best enters the next round of a selection.
_BLOCK = 16


class NmsOutput(NamedTuple):
    """The K detections of each image, best first; zeros where `mask` is false."""

    boxes: Array  # float32 [B, K, 4]
    scores: Array  # float32 [B, K]
    labels: Array  # int32 [B, K], 0-based foreground classes.
    mask: Array  # bool [B, K]
    anchors: Array  # int32 [B, K], index of the anchor among the A boxes.


class _State(NamedTuple):
    """Detections kept so far, and the position reached in each ranking."""

    boxes: Array  # float32 [B, K, 4]
    scores: Array  # float32 [B, K], -inf in free places.
    labels: Array  # int32 [B, K]
    anchors: Array  # int32 [B, K]
    entered: Array  # int32 [B, C], candidates of each class so far.
    last_score: Array  # float32 [B], of the last candidate so far.
    last_index: Array  # int32 [B], its index among all scores; -1 before the first.
    done: Array  # bool [B]: nothing that comes later can be a detection.


def class_wise_nms(
    boxes: Array,
    scores: Array,
    *,
    score: float,
    iou: float,
    max_per_class: int,
    max_total: int,
) -> NmsOutput:
    """Turns the scored boxes of images into detections, as SSD does.

    Args:
      boxes: [B, A, 4]. One that is not finite is no detection and suppresses nothing.
      scores: [B, A, C], of the foreground classes, A and C at least 1. NaN counts as
        no score.
      score: boxes of a class must score higher than this.
      iou: a kept box suppresses those of its class that overlap it by more than this.
      max_per_class: so many boxes of the best score enter the suppression of a class.
      max_total: K, the number of detections over all classes.

    Returns:
      Detections with K = `max_total`, also where A * C is less. Equal scores rank by
      box, lowest index first; of one box, by class.

    Source: Liu et al., SSD (2016), section 3 ("inference time") and its
    DetectionOutput layer.
    """
    batch, _, classes = scores.shape
    # IoU with NaN is above no threshold: such a box would pass as unlike all others.
    finite = jnp.all(jnp.isfinite(boxes), axis=-1, keepdims=True)
    candidates = jnp.where((scores > score) & finite, scores, -jnp.inf)
    # False, but of the input, so that under shard_map it varies as that does.
    false = candidates[:, 0, 0] > jnp.inf

    def full(value, *shape):
        fill = jnp.where(false, jnp.zeros_like(value), value)
        return jnp.broadcast_to(fill.reshape(batch, *[1] * len(shape)), (batch, *shape))

    integer = jnp.zeros((), jnp.int32)
    start = _State(
        boxes=full(jnp.zeros(()), max_total, 4),
        scores=full(jnp.array(-jnp.inf), max_total),
        labels=full(integer, max_total),
        anchors=full(integer, max_total),
        entered=full(integer, classes),
        last_score=full(jnp.array(jnp.inf)),
        last_index=full(integer - 1),
        done=false,
    )
    part = functools.partial(_part, boxes, candidates, iou, max_per_class)
    found = jax.lax.while_loop(lambda state: ~jnp.all(state.done), part, start)
    mask = found.scores > -jnp.inf
    return NmsOutput(
        boxes=jnp.where(mask[..., None], found.boxes, 0.0),
        scores=jnp.where(mask, found.scores, 0.0),
        labels=jnp.where(mask, found.labels, 0),
        mask=mask,
        anchors=jnp.where(mask, found.anchors, 0),
    )


def _part(boxes, candidates, iou, max_per_class, state):
    """The next part of each ranking. Of images that are done it changes nothing."""
    classes = candidates.shape[2]
    room = max_per_class - state.entered  # Candidates that may still enter.
    best, place = _next_best(candidates, room, state)
    # Not //, which asks for the signs as well: indices have none.
    anchor = jax.lax.div(place, classes)
    labels = place - anchor * classes
    these = jnp.take_along_axis(boxes, anchor[..., None], axis=1)

    same = labels[:, :, None] == labels[:, None, :]
    above = same & jnp.tri(best.shape[1], k=-1, dtype=bool)[None]
    rank = jnp.sum(above, axis=-1, dtype=jnp.int32)  # In its class, in this part.
    enters = best > -jnp.inf
    enters &= rank < jnp.take_along_axis(room, labels, axis=1)
    earlier = (labels[:, :, None] == state.labels[:, None, :]) & (
        box_ops.iou(these, state.boxes) > iou
    )
    earlier &= (state.scores > -jnp.inf)[:, None, :]
    above &= box_ops.iou(these, these) > iou
    keep = _fixed_point(above, enters & ~jnp.any(earlier, axis=-1))

    # What was kept before comes first, and ranks higher.
    scores = jnp.concatenate([state.scores, jnp.where(keep, best, -jnp.inf)], axis=1)
    kept, of = jax.lax.top_k(scores, state.scores.shape[1])
    of_class = labels[..., None] == jnp.arange(classes, dtype=jnp.int32)[None, None]
    entered = of_class & enters[..., None]

    def chosen(before, new):
        return jnp.take_along_axis(jnp.concatenate([before, new], axis=1), of, axis=1)

    both = jnp.concatenate([state.boxes, these], axis=1)
    return _State(
        boxes=jnp.take_along_axis(both, of[..., None], axis=1),
        scores=kept,
        labels=chosen(state.labels, labels),
        anchors=chosen(state.anchors, anchor),
        entered=state.entered + jnp.sum(entered, axis=1, dtype=jnp.int32),
        last_score=best[:, -1],
        last_index=place[:, -1],
        # All places are taken, or the ranking has ended.
        done=(kept[:, -1] > -jnp.inf) | (best[:, -1] == -jnp.inf),
    )


def _next_best(candidates, room, state):
    """The best scores [B, k] after the last part's, and their indices.

    Candidates of classes without room do not count. Where there are fewer, the scores
    at the end are -inf.
    """
    batch, count, classes = candidates.shape
    index = jnp.arange(count * classes, dtype=jnp.int32).reshape(1, count, classes)
    last_score = state.last_score[:, None, None]
    later = (candidates < last_score) | (
        (candidates == last_score) & (index > state.last_index[:, None, None])
    )
    left = jnp.where(later & (room > 0)[:, None, :], candidates, -jnp.inf)
    return top_k(left.reshape(batch, -1), min(_PART, count * classes))


def top_k(values: Array, k: int) -> tuple[Array, Array]:
    """`jax.lax.top_k` of [B, N], equal values by rising index, for large N.

    Sorting all N is most of what NMS would cost on accelerators. The k best lie in the
    k blocks whose own best rank highest (each block above has a value that ranks above
    all of a block that is left out), so blocks are selected first, the same way.
    """
    batch, count = values.shape
    if count <= _BLOCK * k:
        return jax.lax.top_k(values, k)
    surplus = -count % _BLOCK
    padded = jnp.pad(values, ((0, 0), (0, surplus)), constant_values=-jnp.inf)
    blocks = padded.reshape(batch, -1, _BLOCK)
    _, chosen = top_k(jnp.max(blocks, axis=-1), k)
    # In order, so that of equal values the first is the one of the lowest index.
    chosen = jnp.sort(chosen, axis=-1)
    inside = jnp.take_along_axis(blocks, chosen[..., None], axis=1)
    best, place = jax.lax.top_k(inside.reshape(batch, -1), k)
    row = jax.lax.div(place, _BLOCK)  # Not //, as above.
    block = jnp.take_along_axis(chosen, row, axis=1)
    # As a difference: jax2onnx takes half of a sum, of which two classes make their
    # division, for a mean of floats.
    return best, place - (row - block) * _BLOCK


def _fixed_point(above, valid):
    """Which of ranked boxes the greedy rule keeps, bool [..., K].

    Args:
      above: bool [..., K, K]: row i is suppressed by column j, of a better rank, if j
        is kept.
      valid: bool [..., K]; the others are not kept and suppress nothing.

    The rule is applied to all boxes at once, over and over, until nothing changes.
    Each round settles at least the first box that was not settled yet, so it ends,
    and its end is the greedy answer, since that is the rule's only fixed point. It
    takes as many rounds as the longest chain of boxes whose fates hang on each other.
    """

    def step(state):
        keep, _ = state
        new = valid & ~jnp.any(above & keep[..., None, :], axis=-1)
        return new, jnp.any(new != keep)

    # Derived from the input, so that under shard_map it varies as that does.
    start = valid, jnp.any(valid)
    keep, _ = jax.lax.while_loop(lambda state: state[1], step, start)
    return keep
