"""Is the borrowing real? What small objects attend to, and who of them is found.

A small object is one of COCO's small area range, in square pixels of the original image
or of the network's input (`evaluation.area_pixels`), that is neither crowd nor
difficult. A source of it is another such object of its class, in the same image, with
at least `scale` times its side (square root of the box's area;
`evaluation.source_scale`).

Average precision, of any detector:
  AP_small_with_source, AP50_small_with_source: of the small objects that have a source,
    the others ignored as COCO ignores objects outside of an area range.
  AP_small_without_source, AP50_small_without_source: of those that have none. Every
    false positive counts against either group, and weighs more in the smaller one:
    compare models by each, not one group with the other.
  AR_small_with_source, AR_small_without_source: recall, where none does: these two may
    be compared.
  objects_small_with_source, objects_small_without_source: how many these are.

Attention P [R, T] of a level that borrows. An object's descriptors are the positions
whose centres lie in its box, or the one nearest to its centre where none does; its
attention is the mean over them, of sum 1 over the T source positions. Scores that are
no probabilities (dot_product) count as |P| divided by the row's sum.
  borrow/precision_same: attention inside of the boxes of the object's sources.
  borrow/positions_same: the share of the T positions whose centres lie there: what
    attention that knows nothing would give them.
  borrow/lift_same: precision over positions. A ratio of the two means, not the mean of
    ratios, which the objects with the fewest positions would decide.
  borrow/{precision,positions,lift}_other: the same for larger objects of other
    classes, where no source's box lies. It is high, too, where attention goes to
    whatever is large.
  borrow/entropy: of a descriptor's row, over log T: 1 is uniform, 0 one position.
  borrow/share_levelM: attention that goes to positions of level M's grid, on which the
    deconvolved map of the next level lies, too.
  borrow/query_dependence: sum_t Var_r P[r, t] / mean_r sum_t P[r, t]^2 over all R
    descriptors of an image, in [0, 1): 0 where all attend to the same positions, as in
    global pooling.
  borrow/objects: how many objects the means of `same` are over.
The means of `same` are over small objects whose sources cover at least one position,
those of `other` over the ones among them for which larger objects of other classes do,
those of entropy and share over all small objects, that of query_dependence over all
images. `borrow/levelN/...` (levels count from 1) is of one level, `borrow/...` of the
shallowest that borrows, on which small objects are found.
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

_SPLIT = ("AP", "AP50", "AR")  # What the small objects' groups are measured by.


class Objects(NamedTuple):
    """The ground truth of one image."""

    boxes: Array  # float32 [G, 4], normalised corners.
    labels: Array  # int32 [G]
    valid: Array  # bool [G], false on padding, crowds and difficult objects.
    small: Array  # bool [G], of COCO's small area range.


class Positions(NamedTuple):
    """Where the descriptors of a level lie, and what they attend to."""

    queries: Array  # float32 [R, 2], centres `[y, x]`.
    sources: Array  # float32 [T, 2]
    source_levels: Array  # bool [T, L], of L levels the one of each source position.


class GroupSums(NamedTuple):
    """Sums over objects of their attention to a group of others."""

    objects: Array  # float32 [], the number of them.
    mass: Array  # float32 [], attention in the group's boxes.
    positions: Array  # float32 [], share of positions in them.


class AttentionSums(NamedTuple):
    """Sums over an image's small objects of what one level attends to."""

    same: GroupSums  # To sources.
    other: GroupSums  # To larger objects of other classes.
    objects: Array  # float32 [], the small ones.
    entropy: Array  # float32 []
    levels: Array  # float32 [L], attention by level.
    images: Array  # float32 [], 1.
    query_dependence: Array  # float32 []


def attention_sums(
    P: Array, objects: Objects, positions: Positions, scale: float
) -> AttentionSums:
    """What one image's small objects attend to; pure, for use under vmap and jit.

    Args:
      P: float32 [R, T], a level's scores.
      objects: of the image.
      positions: of the level.
      scale: the least ratio of sides of a source.
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

    same, other = _sources(objects, positions.sources, scale)
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
    """Rows of P [..., T] as shares: absolute values over their sum; zeros stay so."""
    P = jnp.abs(P)
    total = jnp.sum(P, axis=-1, keepdims=True)
    return P / jnp.maximum(total, jnp.finfo(P.dtype).tiny)


def descriptors(boxes: Array, centers: Array) -> Array:
    """Which of R positions stand for each of G boxes [G, 4]: bool [G, R], at least one.

    Those whose centres [R, 2] lie in the box; the one nearest to the box's centre
    where none does.
    """
    inside = box_ops.contains(boxes, centers)
    middles = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    distance = jnp.sum(jnp.square(centers[None] - middles), axis=-1)
    nearest = jax.nn.one_hot(
        jnp.argmin(distance, axis=1), inside.shape[1], dtype=jnp.bool_
    )
    return jnp.where(jnp.any(inside, axis=1, keepdims=True), inside, nearest)


def _sources(objects, centers, scale):
    """Positions in larger boxes of each object's class, and of others alone: [G, T]."""
    boxes, labels, valid, _ = objects
    same = borrow_targets.borrow_sources(boxes, labels, valid, centers, scale)
    # Of one class, all that are larger are sources.
    larger = borrow_targets.borrow_sources(
        boxes, jnp.zeros_like(labels), valid, centers, scale
    )
    return same, larger & ~same


def _group_sums(attention, places, counted):
    mass = jnp.sum(attention, axis=1, where=places)
    positions = jnp.mean(places, axis=1, dtype=attention.dtype)
    return GroupSums(
        objects=jnp.sum(counted, dtype=attention.dtype),
        mass=jnp.sum(mass, where=counted),
        positions=jnp.sum(positions, where=counted),
    )


def _query_dependence(P):
    # Not mean of squares less square of means: of equal rows that would be rounding.
    variance = jnp.mean(jnp.square(P - jnp.mean(P, axis=0, keepdims=True)), axis=0)
    square = jnp.mean(jnp.sum(jnp.square(P), axis=1))
    return jnp.sum(variance) / jnp.maximum(square, jnp.finfo(P.dtype).tiny)


def attention_metrics(
    images: Sequence[Mapping[int, AttentionSums]],
    source_levels: Mapping[int, Sequence[int]],
) -> dict[str, float]:
    """The `borrow/...` figures of a split (module docstring).

    Args:
      images: of each image the sums of each level that borrows, by level from 0.
      source_levels: of each of these levels those that it borrows from, from 0.

    Returns:
      Name to figure, nan where there is no such object; {} where no level borrows.
    """
    if not source_levels:
        return {}
    sums = {
        n: jax.tree.map(_sum, *(image[n] for image in images)) for n in source_levels
    }
    first = min(source_levels)
    metrics = _figures("borrow", sums[first], source_levels[first])
    for n, levels in source_levels.items():
        metrics |= _figures(f"borrow/level{n + 1}", sums[n], levels)
    return metrics


def _sum(*values):
    return np.sum(values, axis=0, dtype=np.float64)


def _figures(prefix, sums, source_levels):
    figures = {"objects": float(sums.same.objects)}
    for name, group in (("same", sums.same), ("other", sums.other)):
        figures[f"precision_{name}"] = _ratio(group.mass, group.objects)
        figures[f"positions_{name}"] = _ratio(group.positions, group.objects)
        figures[f"lift_{name}"] = _ratio(group.mass, group.positions)
    figures["entropy"] = _ratio(sums.entropy, sums.objects)
    figures["query_dependence"] = _ratio(sums.query_dependence, sums.images)
    for m in source_levels:
        figures[f"share_level{m + 1}"] = _ratio(sums.levels[m], sums.objects)
    return {f"{prefix}/{name}": value for name, value in figures.items()}


def _ratio(part, whole):
    return float(part / whole) if whole else math.nan


def split_metrics(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, float],
    scale: float,
    max_detections: int = 100,
) -> dict[str, float]:
    """AP and AR of small objects with and without a source, and how many these are.

    Args:
      ground_truth: COCO dictionary (average_precision.py).
      detections: COCO results list.
      metrics: `coco_metrics` of these: where all small objects are in one group, its
        figures are taken from there.
      scale: the least ratio of sides of a source.
      max_detections: as for `coco_metrics`.
    """
    small, has_source = small_objects(ground_truth["annotations"], scale)
    groups = {"with_source": small & has_source, "without_source": small & ~has_source}
    figures = {}
    for name, counts in groups.items():
        if counts.sum() == small.sum():
            found = (metrics[f"{name}_small"] for name in _SPLIT)
        else:
            found = average_precision.subset_metrics(
                ground_truth,
                detections,
                counts.tolist(),
                average_precision.AREA_RANGES["small"],
                max_detections,
            )
        for figure, value in zip(_SPLIT, found, strict=True):
            figures[f"{figure}_small_{name}"] = value
        figures[f"objects_small_{name}"] = float(counts.sum())
    return figures


def small_objects(
    annotations: Sequence[Mapping[str, Any]], scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which objects are small, and which have a source: bool [N] both."""
    small = np.zeros(len(annotations), bool)
    has_source = np.zeros(len(annotations), bool)
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
        larger = borrow_targets.is_larger(side.max(), side, scale)
        has_source[indices] = (side > 0) & larger
    return small, has_source
