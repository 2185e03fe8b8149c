"""Greedy non-maximum suppression with static shapes, exact at every threshold.

The greedy rule: in the order of the ranking, a box is kept unless a kept box of its
class overlaps it by more than the threshold. A suppressed box suppresses nothing, and
boxes do not depend on boxes below them. The ranking is therefore processed in parts, of
which the first is usually enough.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from borrow_det.ops import boxes as box_ops

# Candidates per part. With fewer, there are more parts, each of which reads all scores;
# with more, more pairs are compared.
_PART = 1024
# Values per block of `top_k`.
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
    last_score: Array  # float32 [B], score of the last candidate so far.
    last_index: Array  # int32 [B], its index among all scores; -1 before the first.
    done: Array  # bool [B], no later candidate can be a detection.


def class_wise_nms(
    boxes: Array,
    scores: Array,
    *,
    score: float,
    iou: float,
    max_per_class: int,
    max_total: int,
) -> NmsOutput:
    """Selects detections among the scored boxes of images, as SSD does.

    Args:
      boxes: [B, A, 4]. Boxes that are not finite are neither detected nor suppress
        others.
      scores: [B, A, C] of the foreground classes, A and C at least 1. NaN is below
        every threshold.
      score: threshold; detections score higher.
      iou: threshold; a kept box suppresses boxes of its class that overlap it more.
      max_per_class: candidates of a class, those of highest score.
      max_total: K, the number of detections over all classes.

    Returns:
      K = `max_total` detections per image, of which `mask` marks those that exist.
      Equal scores are ranked by anchor index, then by class.

    Source: Liu et al., SSD (2016), section 3 ("inference time") and its
    DetectionOutput layer.
    """
    batch, _, classes = scores.shape
    # IoU with NaN is above no threshold, so that such a box would always be kept.
    finite = jnp.all(jnp.isfinite(boxes), axis=-1, keepdims=True)
    candidates = jnp.where((scores > score) & finite, scores, -jnp.inf)
    # False, derived from the input so that it varies over the same axes in a shard_map.
    false = candidates[:, 0, 0] > jnp.inf

    def full(value: Array, *shape: int) -> Array:
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


def _part(
    boxes: Array, candidates: Array, iou: float, max_per_class: int, state: _State
) -> _State:
    """Processes the next part of each ranking. Images that are done do not change."""
    classes = candidates.shape[2]
    room = max_per_class - state.entered  # Candidates that may still enter.
    best, place = _next_best(candidates, room, state)
    # Not //, which also handles negative numbers.
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

    # Boxes that were kept before come first and rank higher.
    scores = jnp.concatenate([state.scores, jnp.where(keep, best, -jnp.inf)], axis=1)
    kept, of = jax.lax.top_k(scores, state.scores.shape[1])
    of_class = labels[..., None] == jnp.arange(classes, dtype=jnp.int32)[None, None]
    entered = of_class & enters[..., None]

    def chosen(before: Array, new: Array) -> Array:
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
        # All K places are taken, or the ranking has ended.
        done=(kept[:, -1] > -jnp.inf) | (best[:, -1] == -jnp.inf),
    )


def _next_best(candidates: Array, room: Array, state: _State) -> tuple[Array, Array]:
    """Returns the best scores [B, k] after those of earlier parts, and their indices.

    Candidates of classes without room are left out. If fewer than k remain, the last
    scores are -inf.
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
    """Computes `jax.lax.top_k` of [B, N] for large N; equal values by rising index.

    Sorting all N values would be most of the cost of NMS on accelerators. The k best
    values are in the k blocks with the highest maxima: each of these has a value above
    all values of the other blocks. So blocks are selected first, recursively.
    """
    batch, count = values.shape
    if count <= _BLOCK * k:
        return jax.lax.top_k(values, k)
    surplus = -count % _BLOCK
    padded = jnp.pad(values, ((0, 0), (0, surplus)), constant_values=-jnp.inf)
    blocks = padded.reshape(batch, -1, _BLOCK)
    _, chosen = top_k(jnp.max(blocks, axis=-1), k)
    # Sorted, so that of equal values the one of the lowest index comes first.
    chosen = jnp.sort(chosen, axis=-1)
    inside = jnp.take_along_axis(blocks, chosen[..., None], axis=1)
    best, place = jax.lax.top_k(inside.reshape(batch, -1), k)
    row = jax.lax.div(place, _BLOCK)  # Not //, as above.
    block = jnp.take_along_axis(chosen, row, axis=1)
    # A difference: jax2onnx mistakes half of a sum, which the division by two classes
    # makes of it, for a mean of floats.
    return best, place - (row - block) * _BLOCK


def _fixed_point(above: Array, valid: Array) -> Array:
    """Applies the greedy rule to ranked boxes.

    The rule is applied to all boxes at once, until nothing changes. Each round decides
    at least the first undecided box, so the loop ends. Its result is the greedy answer,
    the only fixed point of the rule. The number of rounds is the length of the longest
    chain of boxes that depend on each other.

    Args:
      above: bool [..., K, K], row i is suppressed by column j, of a better rank, if j
        is kept.
      valid: bool [..., K]; other boxes are not kept and suppress nothing.

    Returns:
      bool [..., K], the boxes that are kept.
    """

    def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
        keep, _ = state
        new = valid & ~jnp.any(above & keep[..., None, :], axis=-1)
        return new, jnp.any(new != keep)

    # Derived from the input so that it varies over the same axes in a shard_map.
    start = valid, jnp.any(valid)
    keep, _ = jax.lax.while_loop(lambda state: state[1], step, start)
    return keep
