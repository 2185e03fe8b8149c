"""Box arithmetic: conversions, IoU, and SSD's encoding against anchors.

Boxes are `[y_min, x_min, y_max, x_max]`, float32, normalized to [0, 1]; the center
form is `[y, x, h, w]`. Every function takes any leading dimensions.
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


def area(boxes: Boxes, margin: float = 0.0) -> Boxes:
    """Computes areas [...] of boxes [..., 4]; zero for inverted ones."""
    return _product(boxes[..., 2:] - boxes[..., :2], margin)


def intersection(a: Boxes, b: Boxes, margin: float = 0.0) -> Boxes:
    """Computes the intersection areas [..., N, M] of [..., N, 4] and [..., M, 4]."""
    xp = _library(a, b)
    low = xp.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = xp.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    return _product(high - low, margin)


def _product(size: Boxes, margin: float) -> Boxes:
    """Multiplies heights and widths [..., 2], each plus `margin`; zero if negative."""
    size = size + margin if margin else size
    size = _library(size).maximum(size, 0)
    return size[..., 0] * size[..., 1]


def iou(a: Boxes, b: Boxes, margin: float = 0.0) -> Boxes:
    """Computes pairwise IoU in [0, 1].

    Args:
      a: [..., N, 4].
      b: [..., M, 4].
      margin: added to every height and width; 1 for Pascal VOC's boxes, whose last
        pixel is inside.

    Returns:
      [..., N, M]; zero if both boxes are empty.
    """
    xp = _library(a, b)
    overlap = intersection(a, b, margin)
    union = area(a, margin)[..., :, None] + area(b, margin)[..., None, :] - overlap
    return xp.where(union > 0, overlap / xp.where(union > 0, union, 1.0), 0.0)


def encode(boxes: Array, anchors: Array, variances: tuple[float, float]) -> Array:
    """Encodes boxes [..., 4] as offsets `[dy, dx, dh, dw]` [..., 4] from anchors.

    Offsets of centers are in anchor sizes over `variances[0]`, and log ratios of sizes
    are over `variances[1]`. Boxes of no area give finite offsets: their size counts as
    1e-6. Source: SSD (Liu et al., 2016), Eq. 2, and the variances of its
    implementation.
    """
    box, anchor = to_centers(boxes), to_centers(anchors)
    shift = (box[..., :2] - anchor[..., :2]) / anchor[..., 2:]
    scale = jnp.log(jnp.maximum(box[..., 2:], 1e-6) / anchor[..., 2:])
    return jnp.concatenate([shift / variances[0], scale / variances[1]], axis=-1)


def decode(offsets: Array, anchors: Array, variances: tuple[float, float]) -> Array:
    """Decodes offsets into boxes, as the inverse of `encode`.

    Log ratios are clamped at log(1000 / 16).
    """
    anchor = to_centers(anchors)
    center = anchor[..., :2] + offsets[..., :2] * variances[0] * anchor[..., 2:]
    scale = jnp.minimum(offsets[..., 2:] * variances[1], MAX_LOG_SCALE)
    return to_corners(
        jnp.concatenate([center, jnp.exp(scale) * anchor[..., 2:]], axis=-1)
    )


def contains(boxes: Array, points: Array) -> Array:
    """Returns whether boxes [G, 4] contain points `[y, x]` [T, 2], as bool [G, T]."""
    points = points[None]
    inside = (points >= boxes[:, None, :2]) & (points <= boxes[:, None, 2:])
    return jnp.all(inside, axis=-1)
