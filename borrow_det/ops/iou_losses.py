"""Box losses by overlap: 1 - GIoU and 1 - CIoU of pairs of boxes.

Boxes are `[y_min, x_min, y_max, x_max]` in any unit that is the same in both
directions, such as pixels: CIoU compares aspect ratios and distances. The gradients are
finite for boxes that do not overlap, that are equal, or that have no area, as long as
one box of each pair has an area.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from borrow_det.ops import boxes as box_ops

# Smallest side in an aspect ratio, which bounds its gradient.
_MIN_SIDE = 1e-6


def giou_loss(boxes: Array, target: Array) -> Array:
    """Computes 1 - GIoU, where GIoU = IoU - (hull - union) / hull.

    The hull is the smallest box that encloses both. Source: Rezatofighi et al.,
    Generalized Intersection over Union (2019), Algorithm 1.

    Args:
      boxes: float32 [..., 4].
      target: float32 [..., 4].

    Returns:
      float32 [...], in [0, 2].
    """
    iou, union = _iou_and_union(boxes, target)
    hull = box_ops.area(_hull(boxes, target))
    return 1 - iou + (hull - union) / hull


def ciou_loss(boxes: Array, target: Array) -> Array:
    """Computes 1 - IoU + d^2 / c^2 + alpha v, the complete IoU loss.

    d is the distance of the centers, c the diagonal of the smallest box that encloses
    both, v = (4 / pi^2) (arctan(w' / h') - arctan(w / h))^2, and
    alpha = v / (1 - IoU + v), which is a constant for the gradient. Source: Zheng et
    al., Distance-IoU Loss (2020), Eq. 8 to 11.

    Args:
      boxes: float32 [..., 4].
      target: float32 [..., 4].

    Returns:
      float32 [...], at least 0.
    """
    iou, _ = _iou_and_union(boxes, target)
    centers = box_ops.to_centers(boxes)[..., :2] - box_ops.to_centers(target)[..., :2]
    hull = _hull(boxes, target)
    distance = _squared_length(centers)
    diagonal = _squared_length(hull[..., 2:] - hull[..., :2])
    v = 4 / math.pi**2 * jnp.square(_angle(target) - _angle(boxes))
    # At least 1e-7, as in torchvision, for equal boxes.
    alpha = jax.lax.stop_gradient(v / jnp.maximum(1 - iou + v, 1e-7))
    return 1 - iou + distance / diagonal + alpha * v


LOSSES: dict[str, Callable[[Array, Array], Array]] = {
    "giou": giou_loss,
    "ciou": ciou_loss,
}


def _iou_and_union(boxes: Array, target: Array) -> tuple[Array, Array]:
    """Returns the IoU and the area of the union [...] of pairs of boxes."""
    pairs = boxes[..., None, :], target[..., None, :]
    overlap = box_ops.intersection(*pairs)[..., 0, 0]
    union = box_ops.area(boxes) + box_ops.area(target) - overlap
    return overlap / union, union


def _hull(boxes: Array, target: Array) -> Array:
    """Returns the smallest boxes [..., 4] that enclose pairs of boxes."""
    low = jnp.minimum(boxes[..., :2], target[..., :2])
    high = jnp.maximum(boxes[..., 2:], target[..., 2:])
    return jnp.concatenate([low, high], axis=-1)


def _squared_length(vectors: Array) -> Array:
    return jnp.sum(jnp.square(vectors), axis=-1)


def _angle(boxes: Array) -> Array:
    """Returns arctan(width / height) [...]."""
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], _MIN_SIDE)
    return jnp.arctan2(sides[..., 1], sides[..., 0])
