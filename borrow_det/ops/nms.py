"""Greedy non-maximum suppression with static shapes, exact at every threshold.

The greedy rule: going down the ranking, a box is kept unless a kept box above it
overlaps it by more than the threshold. A suppressed box therefore suppresses nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from borrow_det.ops import boxes as box_ops


class Detections(NamedTuple):
    """The K detections of an image by falling score; zeros where `mask` is false."""

    boxes: Array  # float32 [K, 4]
    scores: Array  # float32 [K]
    labels: Array  # int32 [K], 0-based (there is no background here)
    mask: Array  # bool [K]


def class_wise_nms(
    boxes: Array,
    scores: Array,
    *,
    score: float,
    iou: float,
    max_per_class: int,
    max_total: int,
) -> Detections:
    """Turns the scored boxes of one image into detections, as SSD does; see vmap.

    Args:
      boxes: [A, 4]. One that is not finite is no detection and suppresses nothing.
      scores: [A, C], of the foreground classes. NaN counts as no score.
      score: boxes of a class must score higher than this.
      iou: a kept box suppresses those of its class that overlap it by more than this.
      max_per_class: so many boxes of the best score enter the suppression of a class.
      max_total: K, the number of detections over all classes.

    Returns:
      Detections with K = `max_total`, whatever A and C are. Equal scores rank by
      index, lowest first; of different classes, by class.

    Source: Liu et al., SSD (2016), section 3 ("inference time") and its
    DetectionOutput layer.
    """
    # IoU with NaN is above no threshold: such a box would pass as unlike all others.
    finite = jnp.all(jnp.isfinite(boxes), axis=-1, keepdims=True)
    candidates = jnp.where((scores > score) & finite, scores, -jnp.inf).T
    # Not a sort: that of all the anchors would cost more than all the rest.
    best, index = jax.lax.top_k(candidates, min(max_per_class, boxes.shape[0]))
    best_boxes = boxes[index]  # [C, k, 4]
    keep = suppress(best_boxes, best > -jnp.inf, iou)

    kept_scores = jnp.where(keep, best, -jnp.inf).reshape(-1)
    count = min(max_total, kept_scores.size)
    top, place = jax.lax.top_k(kept_scores, count)
    mask = top > -jnp.inf
    detections = Detections(
        boxes=jnp.where(mask[:, None], best_boxes.reshape(-1, 4)[place], 0),
        scores=jnp.where(mask, top, 0),
        labels=jnp.where(mask, place // best.shape[1], 0).astype(jnp.int32),
        mask=mask,
    )

    def pad(x):
        return jnp.pad(x, [(0, max_total - count)] + [(0, 0)] * (x.ndim - 1))

    return Detections(*map(pad, detections))


def suppress(boxes: Array, valid: Array, iou: float) -> Array:
    """Which of ranked boxes the greedy rule keeps.

    Args:
      boxes: [..., K, 4], the best first.
      valid: bool [..., K]; the others are not kept and suppress nothing.
      iou: overlap from which on, this not included, a box suppresses a lower one.

    Returns:
      Bool [..., K].

    The rule is applied to all boxes at once, over and over, until nothing changes.
    Each round settles at least the first box that was not settled yet, so it ends,
    and its end is the greedy answer, since that is the rule's only fixed point. It
    takes as many rounds as the longest chain of boxes whose fates hang on each other.
    """
    lower = jnp.tri(boxes.shape[-2], k=-1, dtype=bool)
    lower = lower.reshape((1,) * (boxes.ndim - 2) + lower.shape)
    # [..., K, K]: row i is suppressed by column j, of a better rank, if j is kept.
    above = lower & (box_ops.iou(boxes, boxes) > iou)

    def step(state):
        keep, _ = state
        new = valid & ~jnp.any(above & keep[..., None, :], axis=-1)
        return new, jnp.any(new != keep)

    # Derived from the input, so that under shard_map it varies as that does.
    start = valid, jnp.any(valid)
    keep, _ = jax.lax.while_loop(lambda state: state[1], step, start)
    return keep
