"""Anchor sizes and aspect ratios for given objects: Eq. (1) of the paper.

The formulas are for boxes with a common center. An object of side s (the square
root of its area) and aspect ratio r meets an anchor of side S and aspect ratio a with
the mismatch m = max(s / S, S / s) and the quotient k = max(r / a, a / r). If k is at
most m squared, one box contains the other and

    IoU = 1 / m^2;

otherwise they cross, and

    IoU = c / (1 + m^2 - c),  c = m / sqrt(k).

`best_iou` and `nearest_iou` measure the overlap of objects with anchors at their actual
places, which the distance between centers makes smaller.
"""

import itertools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from borrow_det.errors import InputError
from borrow_det.ops import anchors as anchor_ops
from borrow_det.ops import boxes as box_ops

# Objects that are compared with all anchors in one call, so that one shape is compiled.
_CHUNK = 256


def centered_iou(mismatch: np.ndarray, quotient: np.ndarray) -> np.ndarray:
    """Computes the IoU of two boxes with a common center, in (0, 1].

    Args:
      mismatch: ratio m of their sides, any shape, at least 1.
      quotient: ratio k of their aspect ratios, broadcast against it, at least 1.
    """
    square = np.square(mismatch)
    crossing = mismatch / np.sqrt(quotient)
    return np.where(quotient <= square, 1 / square, crossing / (1 + square - crossing))


def largest_quotient(scale_step: float, theta: float) -> float:
    """Computes the largest quotient K >= 1 of aspect ratios that reaches an IoU.

    An object halfway between two sizes is off by m = sqrt(scale_step). Its IoU is at
    least theta up to K = [m (1 + theta) / (theta (1 + m^2))]^2, which is Eq. (1) solved
    for the quotient.

    Raises:
      InputError: the step is so large that a box halfway between two sizes has an IoU
        below theta with both at any aspect ratio: 1 / m^2 < theta. Eq. (1) does not
        cover this case, because one box then contains the other.
    """
    if scale_step > 1 / theta * (1 + 1e-9):
        raise InputError(
            f"sizes a factor {scale_step:g} apart cannot reach an IoU of {theta:g} at "
            f"any aspect ratio: half way between two of them it is {1 / scale_step:.3g}"
            f" at best; the largest step for {theta:g} is {1 / theta:.4g}"
        )
    return scale_step * (1 + theta) ** 2 / (theta * (1 + scale_step)) ** 2


def max_aspect_ratio(
    object_aspect_ratio: float, theta: float, scale_step: float
) -> float:
    """Computes the largest aspect ratio that anchors need, by Eq. (1).

    Args:
      object_aspect_ratio: largest ratio of long to short side of the objects.
      theta: the IoU to reach, in (0, 1).
      scale_step: S_{n+1} / S_n, at least 1; the paper's is 2.

    Returns:
      AR_max >= 1; 1 if square anchors suffice.

    Raises:
      InputError: as `largest_quotient`.
    """
    return max(1.0, object_aspect_ratio / largest_quotient(scale_step, theta))


def aspect_ratios(low: float, high: float, quotient: float) -> tuple[float, ...]:
    """Returns the fewest aspect ratios that are within `quotient` of [low, high].

    An anchor covers the interval from its aspect ratio over the quotient to its aspect
    ratio times the quotient, and such intervals tile [low, high]. The outermost ratios
    are those of Eq. (1), low * quotient and high / quotient; the others are evenly
    spaced on a logarithmic scale.

    Args:
      low: smallest aspect ratio, width / height, of the objects.
      high: largest aspect ratio of the objects.
      quotient: K of `largest_quotient`, above 1.
    """
    # The paper's 36 = 2 * 2 * 9 may be computed as 36.000000001.
    intervals = math.log(high / low) / (2 * math.log(quotient))
    count = max(1, math.ceil(intervals - 1e-9))
    if count == 1:
        return (math.sqrt(low * high),)
    return tuple(np.geomspace(low * quotient, high / quotient, count).tolist())


def best_centered_iou(
    sizes: np.ndarray, ratios: np.ndarray, shapes: np.ndarray
) -> np.ndarray:
    """Computes the IoU [N] of each object with its best anchor shape.

    Args:
      sizes: [N], square roots of the objects' areas, in pixels.
      ratios: [N], their aspect ratios, width / height.
      shapes: [k, 2], (height, width) of the anchors in pixels.
    """
    anchor_sizes = np.sqrt(shapes.prod(axis=1))
    mismatch = np.abs(np.log(sizes[:, None] / anchor_sizes))
    quotient = np.abs(np.log(ratios[:, None] * shapes[:, 0] / shapes[:, 1]))
    return centered_iou(np.exp(mismatch), np.exp(quotient)).max(axis=1)


def worst_centered_iou(
    sizes: tuple[float, float],
    ratios: tuple[float, float],
    shapes: np.ndarray,
    points: int = 48,
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the smallest centered IoU over a region of objects, by size.

    If every size has every aspect ratio, the minimum is at an end of the region or
    halfway between two anchors. These places are evaluated in addition to a grid, which
    covers other sets of anchors.

    Args:
      sizes: smallest and largest side of the objects, in pixels.
      ratios: their smallest and largest aspect ratio.
      shapes: [k, 2], (height, width) of the anchors in pixels.
      points: points of the grid along each axis.

    Returns:
      Sides [P] in ascending order, and the IoU [P] of the worst aspect ratio at each of
      them with its best anchor.
    """
    at_sizes = _places(sizes, np.sqrt(shapes.prod(axis=1)), points)
    at_ratios = _places(ratios, shapes[:, 1] / shapes[:, 0], points)
    grid = np.meshgrid(at_sizes, at_ratios, indexing="ij")
    best = best_centered_iou(grid[0].ravel(), grid[1].ravel(), shapes)
    return at_sizes, best.reshape(grid[0].shape).min(axis=1)


def _places(
    interval: tuple[float, float], anchors: np.ndarray, points: int
) -> np.ndarray:
    """Returns a grid of an interval, and the middles between anchors inside it."""
    low, high = interval
    middles = [math.sqrt(a * b) for a, b in itertools.pairwise(np.unique(anchors))]
    inside = [middle for middle in middles if low < middle < high]
    return np.unique(np.concatenate([np.geomspace(low, high, points), inside]))


def best_iou(boxes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Computes the IoU [N] of boxes [N, 4] with their best of the anchors [A, 4]."""
    found = []
    for start in range(0, len(boxes), _CHUNK):
        chunk = np.asarray(boxes[start : start + _CHUNK], np.float32)
        padding = ((0, _CHUNK - len(chunk)), (0, 0))
        found.append(_best_of_chunk(np.pad(chunk, padding), anchors)[: len(chunk)])
    return np.concatenate([np.zeros(0, np.float32), *found])


@jax.jit
def _best_of_chunk(boxes: Array, anchors: Array) -> Array:
    return jnp.max(box_ops.iou(boxes, anchors), axis=1)


def nearest_iou(
    boxes: np.ndarray,
    stride: int,
    shapes: np.ndarray,
    input_size: tuple[int, int],
    clip: str,
) -> np.ndarray:
    """Computes `best_iou` with the anchors of one level, thousands of times faster.

    Among anchors of one shape, the one with the nearest center has the largest overlap
    along both axes. All have the same area, so it has the largest IoU. Anchors that are
    clipped at the image's border differ in area: along each axis, those whose edge is
    nearest to an edge of the object are compared, too. The result is then exact for
    most objects, and a lower bound for the others.

    Args:
      boxes: [N, 4], normalized corners.
      stride: stride of the level in pixels.
      shapes: [k, 2], (height, width) in pixels of the anchors at each position.
      input_size: (height, width) in pixels.
      clip: `config.anchors.clip`.

    Returns:
      float64 [N].
    """
    boxes = np.asarray(boxes, np.float64)
    maps = anchor_ops.level_shapes(input_size, [stride])[0]
    area, axes = 1.0, []
    for axis, length in enumerate(input_size):
        low, high = boxes[:, axis] * length, boxes[:, axis + 2] * length
        area = area * (high - low)
        sides = shapes[:, axis, None]
        if clip == "sizes":
            sides = np.minimum(sides, length)
        border = length if clip == "boxes" else None
        axes.append(list(_along(low, high, sides, stride, maps[axis], border)))
    best = np.zeros(len(boxes))
    for (down, height), (across, width) in itertools.product(*axes):
        common = down * across
        iou = common / (area + height * width - common)
        best = np.maximum(best, iou.max(axis=0))
    return best


def _along(
    low: np.ndarray,
    high: np.ndarray,
    sides: np.ndarray,
    stride: int,
    count: int,
    border: float | None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the overlap of intervals [N] with anchors nearby, and the anchors' sides.

    Args:
      low: lower ends of the intervals in pixels.
      high: upper ends.
      sides: [k, 1], sides of the anchors along the axis in pixels.
      stride: stride of the level in pixels.
      count: positions along the axis.
      border: size of the image along the axis if anchors are clipped to it.
    """
    wanted = [(low + high) / 2]
    if border is not None:
        wanted += [low + sides / 2, high - sides / 2]
    for middle in wanted:
        center = (np.clip(middle // stride, 0, count - 1) + 0.5) * stride
        start, end = center - sides / 2, center + sides / 2
        if border is not None:
            start, end = np.clip(start, 0, border), np.clip(end, 0, border)
        overlap = np.minimum(high, end) - np.maximum(low, start)
        yield np.maximum(overlap, 0), end - start
