"""Box arithmetic: conversions, IoU, and SSD's encoding against anchors.

Boxes are `[y_min, x_min, y_max, x_max]`, float32, normalised to [0, 1]; the centre
form is `[y, x, h, w]`. Every function works on any leading dimensions.
"""

import math
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from jax import Array

# Areas and overlaps are computed on the host, in the arrays' own precision, if all
# arrays are NumPy's.
Boxes = TypeVar("Boxes", Array, np.ndarray)

# exp(dh) beyond this ratio is a diverging regression, not a box (the bound that
# torchvision's and Detectron's coders use).
MAX_LOG_SCALE = math.log(1000.0 / 16.0)


def to_centers(boxes: Array) -> Array:
    """Turns corners [..., 4] into `[y, x, h, w]` [..., 4]."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([(low + high) / 2, high - low], axis=-1)


def to_corners(centers: Array) -> Array:
    """Turns `[y, x, h, w]` [..., 4] into corners [..., 4]."""
    center, size = centers[..., :2], centers[..., 2:]
    return jnp.concatenate([center - size / 2, center + size / 2], axis=-1)


def _library(*arrays: Any) -> Any:
    """Returns numpy for NumPy arrays, else jax.numpy."""
    return np if all(isinstance(array, np.ndarray) for array in arrays) else jnp


def area(boxes: Boxes) -> Boxes:
    """Area [...] of boxes [..., 4]; zero for inverted ones."""
    size = _library(boxes).maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return size[..., 0] * size[..., 1]


def intersection(a: Boxes, b: Boxes) -> Boxes:
    """Pairwise intersection areas [..., N, M] of boxes [..., N, 4] and [..., M, 4]."""
    xp = _library(a, b)
    low = xp.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = xp.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    size = xp.maximum(high - low, 0)
    return size[..., 0] * size[..., 1]


def iou(a: Boxes, b: Boxes) -> Boxes:
    """Pairwise IoU [..., N, M], in [0, 1]; zero where both boxes are empty."""
    xp = _library(a, b)
    overlap = intersection(a, b)
    union = area(a)[..., :, None] + area(b)[..., None, :] - overlap
    return xp.where(union > 0, overlap / xp.where(union > 0, union, 1.0), 0.0)


def encode(boxes: Array, anchors: Array, variances: tuple[float, float]) -> Array:
    """Regression targets `[dy, dx, dh, dw]` [..., 4] of boxes against anchors.

    SSD (Liu et al. 2016), Eq. 2, with the variances of its implementation: offsets of
    centres in anchor sizes over `variances[0]`, log ratios of sizes over
    `variances[1]`. Boxes of no area give finite targets (their size counts as 1e-6).
    """
    box, anchor = to_centers(boxes), to_centers(anchors)
    shift = (box[..., :2] - anchor[..., :2]) / anchor[..., 2:]
    scale = jnp.log(jnp.maximum(box[..., 2:], 1e-6) / anchor[..., 2:])
    return jnp.concatenate([shift / variances[0], scale / variances[1]], axis=-1)


def decode(offsets: Array, anchors: Array, variances: tuple[float, float]) -> Array:
    """The inverse of `encode`; log ratios are clamped at log(1000 / 16)."""
    anchor = to_centers(anchors)
    center = anchor[..., :2] + offsets[..., :2] * variances[0] * anchor[..., 2:]
    scale = jnp.minimum(offsets[..., 2:] * variances[1], MAX_LOG_SCALE)
    return to_corners(
        jnp.concatenate([center, jnp.exp(scale) * anchor[..., 2:]], axis=-1)
    )


def contains(boxes: Array, points: Array) -> Array:
    """Which points, [T, 2] of `[y, x]`, lie in which boxes, [G, 4]: bool [G, T]."""
    points = points[None]
    inside = (points >= boxes[:, None, :2]) & (points <= boxes[:, None, 2:])
    return jnp.all(inside, axis=-1)
