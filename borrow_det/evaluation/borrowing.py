"""Metrics of borrowing: the attention of small objects to their lenders.

Small objects and their lenders are defined in lenders.py.

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
With N references of an image (config.references) the T source positions are followed by
those of each reference. Lenders are also objects of references of the same class with
at least `scale` times the side, both as shares of the network's input; the figures
above count them. Positions of absent references do not count. In addition,
  attention/share_references: attention to positions of references.
  attention/{precision,positions,lift}_references: as those of `same`, for lenders in
    references only; means over the small objects with a position in one.
The `same` figures are means over the small objects whose lenders cover at least one
position. The `other` figures are means over those of them for which larger objects of
other classes cover a position, too. Entropy and shares are means over all small
objects, query_dependence is a mean over all images. `attention/levelN/...` (levels
count from 1) are the figures of one level, `attention/...` those of the shallowest
level that borrows, which detects the small objects. With evaluation.tiles each view
counts as an image, whose objects are those with their center in it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from borrow_det.ops import borrow_targets
from borrow_det.ops import boxes as box_ops


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


class ReferenceObjects(NamedTuple):
    """The ground truth of an image's N references; absent ones have no objects."""

    boxes: Array  # float32 [N, G, 4], normalized corners.
    labels: Array  # int32 [N, G]
    valid: Array  # bool [N, G], as in `ImageObjects`.
    mask: Array  # bool [N], false for an absent reference.


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
    # With references: attention to lenders in them, and to all of their positions.
    references: GroupSums | None = None
    share_references: Array | None = None


def attention_sums(
    P: Array,
    objects: ImageObjects,
    positions: Positions,
    scale: float,
    references: ReferenceObjects | None = None,
) -> AttentionSums:
    """Sums the attention of one image's small objects; works under vmap and jit.

    Args:
      P: float32 [R, T], scores of a level. With N references [R, (1 + N) T]: those of
        the image's own T source positions, followed by those of each reference.
      objects: ground truth of the image.
      positions: positions of the level, in the image as in each reference.
      scale: least ratio of a lender's side to the small object's side.
      references: ground truth of the references, or None.
    """
    P = as_shares(P)
    borrowers = objects.small & objects.valid
    members = descriptors(objects.boxes, positions.queries).astype(P.dtype)
    members = members / jnp.sum(members, axis=1, keepdims=True)
    attention = jnp.matmul(members, P, precision="highest")  # [G, T]
    present = _present(positions, references)
    rows = jnp.sum(jax.scipy.special.entr(P), axis=1)
    rows = rows / _log_count(P.shape[1], present)
    entropy = jnp.matmul(members, rows, precision="highest")
    images = P.shape[1] // positions.sources.shape[0]
    source_levels = jnp.tile(positions.source_levels.astype(P.dtype), (images, 1))
    by_level = jnp.matmul(attention, source_levels, precision="highest")

    same, other = _positions_in_larger(objects, positions.sources, scale, references)
    with_same = borrowers & jnp.any(same, axis=1)
    with_other = with_same & jnp.any(other, axis=1)
    sums = AttentionSums(
        same=_group_sums(attention, same, with_same, present),
        other=_group_sums(attention, other, with_other, present),
        objects=jnp.sum(borrowers, dtype=P.dtype),
        entropy=jnp.sum(entropy, where=borrowers),
        levels=jnp.sum(by_level, axis=0, where=borrowers[:, None]),
        images=jnp.ones((), P.dtype),
        query_dependence=_query_dependence(P),
    )
    if references is None:
        return sums
    beyond = jnp.arange(P.shape[1]) >= positions.sources.shape[0]
    lent = same & beyond[None, :]
    with_lent = borrowers & jnp.any(lent, axis=1)
    shares = jnp.sum(attention, axis=1, where=beyond[None, :])
    return sums._replace(
        references=_group_sums(attention, lent, with_lent, present),
        share_references=jnp.sum(shares, where=borrowers),
    )


def _present(positions: Positions, references: ReferenceObjects | None) -> Array | None:
    """Returns which source positions exist, bool [(1 + N) T]; None: all of them."""
    if references is None:
        return None
    images = jnp.concatenate([jnp.ones((1,), jnp.bool_), references.mask])
    return jnp.repeat(images, positions.sources.shape[0])


def _log_count(count: int, present: Array | None) -> Array | float:
    """Returns the logarithm of the number of source positions, at least log 2."""
    if present is None:
        return math.log(max(count, 2))
    return jnp.log(jnp.maximum(jnp.sum(present, dtype=jnp.float32), 2))


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
    objects: ImageObjects,
    centers: Array,
    scale: float,
    references: ReferenceObjects | None,
) -> tuple[Array, Array]:
    """Masks of positions in larger boxes of the same and of other classes.

    Those of the image [G, T] are followed by those of each reference.
    """
    own = borrow_targets.Objects(objects.boxes, objects.labels, objects.valid)

    def of_image(others: borrow_targets.Objects) -> tuple[Array, Array]:
        same = borrow_targets.sources_in(own, others, centers, scale)
        # With one label for all, every larger object is a lender.
        one_class, of_others = (
            x._replace(labels=jnp.zeros_like(x.labels)) for x in (own, others)
        )
        larger = borrow_targets.sources_in(one_class, of_others, centers, scale)
        return same, larger & ~same

    same, other = of_image(own)
    if references is None:
        return same, other
    of_each = jax.vmap(of_image)(borrow_targets.Objects(*references[:3]))  # [N, G, T]
    same = jnp.concatenate([same, *of_each[0]], axis=1)
    return same, jnp.concatenate([other, *of_each[1]], axis=1)


def _group_sums(
    attention: Array, places: Array, counted: Array, present: Array | None
) -> GroupSums:
    mass = jnp.sum(attention, axis=1, where=places)
    if present is None:
        positions = jnp.mean(places, axis=1, dtype=attention.dtype)
    else:
        positions = jnp.sum(places, axis=1, dtype=attention.dtype)
        positions = positions / jnp.sum(present, dtype=attention.dtype)
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
    groups = {"same": sums.same, "other": sums.other}
    if sums.references is not None and sums.share_references is not None:
        groups["references"] = sums.references
        metrics["share_references"] = _ratio(sums.share_references, sums.objects)
    for name, group in groups.items():
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
