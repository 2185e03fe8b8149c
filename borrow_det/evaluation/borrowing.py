"""Metrics of borrowing: attention of small objects, AP with and without a lender.

A small object has an area in COCO's small range and is neither crowd nor difficult. The
area is in square pixels of the original image or of the network's input
(`evaluation.area_pixels`). A lender of a small object is another such object of the
same class in the same image, with at least `scale` times its side (square root of the
box's area; `evaluation.lender_scale`).

Average precision, for any detector:
  AP_small_with_lender, AP50_small_with_lender: AP of the small objects that have a
    lender. COCO's rule for objects outside an area range applies to the others.
  AP_small_without_lender, AP50_small_without_lender: AP of the small objects that have
    none. Every false positive counts in both groups, and weighs more in the smaller
    one. Compare models by each figure, not one group with the other.
  AR_small_with_lender, AR_small_without_lender: average recall. False positives do not
    count, so these two may be compared.
  objects_small_with_lender, objects_small_without_lender: the number of objects.

Attention P [R, T] of a level that borrows. The descriptors of an object are the
positions whose centers are in its box, or the nearest position if there is none. The
attention of an object is the mean over its descriptors; it sums to 1 over the T source
positions. Scores that are not probabilities (dot_product) count as |P| divided by the
sum of the row.
  attention/precision_same: attention inside the boxes of the object's lenders.
  attention/positions_same: the share of the T positions whose centers are in these
    boxes, which is the precision of uniform attention.
  attention/lift_same: precision_same / positions_same. It is a ratio of two means: a
    mean of ratios would depend mostly on the objects with the fewest positions.
  attention/{precision,positions,lift}_other: the same for larger objects of other
    classes, outside the lenders' boxes. Both lifts are high if attention goes to
    everything large.
  attention/entropy: entropy of a descriptor's row over log T: 1 for uniform attention,
    0 for attention to one position.
  attention/share_levelM: attention to positions on the grid of level M. The deconvolved
    map of the next level has the same grid.
  attention/query_dependence: sum_t Var_r P[r, t] / mean_r sum_t P[r, t]^2 over all R
    descriptors of an image, in [0, 1). It is 0 if all descriptors attend to the same
    positions, as in global pooling.
  attention/objects: the number of objects behind the `same` figures.
The `same` figures are means over the small objects whose lenders cover at least one
position. The `other` figures are means over those of them for which larger objects of
other classes cover a position, too. Entropy and shares are means over all small
objects, query_dependence is a mean over all images. `attention/levelN/...` (levels
count from 1) are the figures of one level, `attention/...` those of the shallowest
level that borrows, which detects the small objects.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from borrow_det.evaluation import average_precision
from borrow_det.ops import borrow_targets
from borrow_det.ops import boxes as box_ops

_GROUP_METRICS = ("AP", "AP50", "AR")


class ImageObjects(NamedTuple):
    """The ground truth of one image."""

    boxes: Array  # float32 [G, 4], normalized corners.
    labels: Array  # int32 [G]
    valid: Array  # bool [G], false on padding, crowds and difficult objects.
    small: Array  # bool [G], true if the area is in COCO's small range.


class Positions(NamedTuple):
    """Descriptors of a level and the source positions that they attend to."""

    queries: Array  # float32 [R, 2], centers `[y, x]`, normalized.
    sources: Array  # float32 [T, 2], centers `[y, x]`, normalized.
    source_levels: Array  # bool [T, L], one-hot: the level of each source position.


class GroupSums(NamedTuple):
    """Sums over small objects of their attention to a group of other objects."""

    objects: Array  # float32 [], the number of small objects.
    mass: Array  # float32 [], attention in the group's boxes.
    positions: Array  # float32 [], share of the positions in these boxes.


class AttentionSums(NamedTuple):
    """Sums of one level's attention over the small objects of an image."""

    same: GroupSums  # Attention to lenders.
    other: GroupSums  # Attention to larger objects of other classes.
    objects: Array  # float32 [], the number of small objects.
    entropy: Array  # float32 []
    levels: Array  # float32 [L], attention to each level.
    images: Array  # float32 [], 1.
    query_dependence: Array  # float32 []


def attention_sums(
    P: Array, objects: ImageObjects, positions: Positions, scale: float
) -> AttentionSums:
    """Sums the attention of one image's small objects; works under vmap and jit.

    Args:
      P: float32 [R, T], scores of a level.
      objects: ground truth of the image.
      positions: positions of the level.
      scale: least ratio of a lender's side to the small object's side.
    """
    P = as_shares(P)
    borrowers = objects.small & objects.valid
    members = descriptors(objects.boxes, positions.queries).astype(P.dtype)
    members = members / jnp.sum(members, axis=1, keepdims=True)
    attention = jnp.matmul(members, P, precision="highest")  # [G, T]
    rows = jnp.sum(jax.scipy.special.entr(P), axis=1) / math.log(max(P.shape[1], 2))
    entropy = jnp.matmul(members, rows, precision="highest")
    by_level = jnp.matmul(
        attention, positions.source_levels.astype(P.dtype), precision="highest"
    )

    same, other = _positions_in_larger(objects, positions.sources, scale)
    with_same = borrowers & jnp.any(same, axis=1)
    with_other = with_same & jnp.any(other, axis=1)
    return AttentionSums(
        same=_group_sums(attention, same, with_same),
        other=_group_sums(attention, other, with_other),
        objects=jnp.sum(borrowers, dtype=P.dtype),
        entropy=jnp.sum(entropy, where=borrowers),
        levels=jnp.sum(by_level, axis=0, where=borrowers[:, None]),
        images=jnp.ones((), P.dtype),
        query_dependence=_query_dependence(P),
    )


def as_shares(P: Array) -> Array:
    """Returns |P| over the sum of each row, for P [..., T]; zero rows stay zero."""
    P = jnp.abs(P)
    total = jnp.sum(P, axis=-1, keepdims=True)
    return P / jnp.maximum(total, jnp.finfo(P.dtype).tiny)


def descriptors(boxes: Array, centers: Array) -> Array:
    """Selects the descriptors of each box, at least one.

    Args:
      boxes: float32 [G, 4], normalized corners.
      centers: float32 [R, 2], `[y, x]` of each position, normalized.

    Returns:
      bool [G, R]: the positions whose centers are in the box, or the position nearest
      to the center of the box if there is none.
    """
    inside = box_ops.contains(boxes, centers)
    middles = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    distance = jnp.sum(jnp.square(centers[None] - middles), axis=-1)
    nearest = jax.nn.one_hot(
        jnp.argmin(distance, axis=1), inside.shape[1], dtype=jnp.bool_
    )
    return jnp.where(jnp.any(inside, axis=1, keepdims=True), inside, nearest)


def _positions_in_larger(
    objects: ImageObjects, centers: Array, scale: float
) -> tuple[Array, Array]:
    """Masks [G, T] of positions in larger boxes of the same and of other classes."""
    boxes, labels, valid, _ = objects
    same = borrow_targets.borrow_sources(boxes, labels, valid, centers, scale)
    # With one label for all, every larger object is a lender.
    larger = borrow_targets.borrow_sources(
        boxes, jnp.zeros_like(labels), valid, centers, scale
    )
    return same, larger & ~same


def _group_sums(attention: Array, places: Array, counted: Array) -> GroupSums:
    mass = jnp.sum(attention, axis=1, where=places)
    positions = jnp.mean(places, axis=1, dtype=attention.dtype)
    return GroupSums(
        objects=jnp.sum(counted, dtype=attention.dtype),
        mass=jnp.sum(mass, where=counted),
        positions=jnp.sum(positions, where=counted),
    )


def _query_dependence(P: Array) -> Array:
    # Mean of squares minus square of means would leave rounding errors for equal rows.
    variance = jnp.mean(jnp.square(P - jnp.mean(P, axis=0, keepdims=True)), axis=0)
    square = jnp.mean(jnp.sum(jnp.square(P), axis=1))
    return jnp.sum(variance) / jnp.maximum(square, jnp.finfo(P.dtype).tiny)


def attention_metrics(
    images: Sequence[Mapping[int, AttentionSums]],
    source_levels: Mapping[int, Sequence[int]],
) -> dict[str, float]:
    """Computes the `attention/...` metrics of a split (see the module docstring).

    Args:
      images: for each image, the sums of each borrowing level; levels count from 0.
      source_levels: borrowing level to the levels that it borrows from.

    Returns:
      Metrics by name, nan without such an object; {} if no level borrows.
    """
    if not source_levels:
        return {}
    sums = {
        n: jax.tree.map(_sum, *(image[n] for image in images)) for n in source_levels
    }
    first = min(source_levels)
    metrics = _level_metrics("attention", sums[first], source_levels[first])
    for n, levels in source_levels.items():
        metrics |= _level_metrics(f"attention/level{n + 1}", sums[n], levels)
    return metrics


def _sum(*values: Array) -> np.ndarray:
    return np.asarray(np.sum(values, axis=0, dtype=np.float64))


def _level_metrics(
    prefix: str, sums: AttentionSums, source_levels: Sequence[int]
) -> dict[str, float]:
    metrics = {"objects": float(sums.same.objects)}
    for name, group in (("same", sums.same), ("other", sums.other)):
        metrics[f"precision_{name}"] = _ratio(group.mass, group.objects)
        metrics[f"positions_{name}"] = _ratio(group.positions, group.objects)
        metrics[f"lift_{name}"] = _ratio(group.mass, group.positions)
    metrics["entropy"] = _ratio(sums.entropy, sums.objects)
    metrics["query_dependence"] = _ratio(sums.query_dependence, sums.images)
    for m in source_levels:
        metrics[f"share_level{m + 1}"] = _ratio(sums.levels[m], sums.objects)
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


def _ratio(part: Array, total: Array) -> float:
    return float(part / total) if total else math.nan


def lender_metrics(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, float],
    scale: float,
    max_detections: int = 100,
) -> dict[str, float]:
    """Computes AP, AP50 and AR of small objects with and without a lender.

    Args:
      ground_truth: COCO dictionary (see average_precision.py).
      detections: COCO results list.
      metrics: `coco_metrics` of these. If all small objects are in one group, its
        figures are taken from here.
      scale: least ratio of a lender's side to the small object's side.
      max_detections: see `coco_metrics`.

    Returns:
      The figures of each group and its number of objects (see the module docstring).
    """
    small, has_lender = small_objects(ground_truth["annotations"], scale)
    groups = {"with_lender": small & has_lender, "without_lender": small & ~has_lender}
    figures = {}
    for group, counts in groups.items():
        if counts.sum() == small.sum():
            values = tuple(metrics[f"{name}_small"] for name in _GROUP_METRICS)
        else:
            values = average_precision.subset_metrics(
                ground_truth,
                detections,
                counts.tolist(),
                average_precision.AREA_RANGES["small"],
                max_detections,
            )
        for name, value in zip(_GROUP_METRICS, values, strict=True):
            figures[f"{name}_small_{group}"] = value
        figures[f"objects_small_{group}"] = float(counts.sum())
    return figures


def small_objects(
    annotations: Sequence[Mapping[str, Any]], scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns masks of the small objects and of those with a lender: bool [N] each.

    Args:
      annotations: COCO annotations; crowds and difficult objects are in neither mask.
      scale: least ratio of a lender's side to the object's side.
    """
    small = np.zeros(len(annotations), bool)
    has_lender = np.zeros(len(annotations), bool)
    groups: dict[Any, list[int]] = {}
    for index, annotation in enumerate(annotations):
        if not average_precision.is_ignored(annotation):
            key = annotation["image_id"], annotation["category_id"]
            groups.setdefault(key, []).append(index)
    for indices in groups.values():
        members = [annotations[i] for i in indices]
        area = np.array([average_precision.object_area(a) for a in members])
        side = np.array([a["bbox"][2] * a["bbox"][3] for a in members], float) ** 0.5
        small[indices] = average_precision.is_small(area)
        larger = borrow_targets.is_larger(side.max(keepdims=True), side, scale)
        has_lender[indices] = (side > 0) & larger
    return small, has_lender
