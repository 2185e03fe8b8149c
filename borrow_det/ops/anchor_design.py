"""Which anchor sizes and aspect ratios objects need: Eq. (1) of the paper, worked out.

Everything here is about boxes with a common centre. An object of side s (the square
root of its area) and aspect ratio r meets an anchor of side S and aspect ratio a with
the mismatch m = max(s / S, S / s) and the quotient k = max(r / a, a / r). Where k is
at most m squared, one box contains the other and

    IoU = 1 / m^2;

where it is more, they cross, and

    IoU = c / (1 + m^2 - c),  c = m / sqrt(k).

What the distance between an object and the nearest anchor costs on top of this is
measured by ops/anchor_coverage.py.
"""

import itertools
import math

import numpy as np

from borrow_det.errors import InputError


def centered_iou(mismatch: np.ndarray, quotient: np.ndarray) -> np.ndarray:
    """IoU of two boxes with a common centre, in (0, 1].

    Args:
      mismatch: ratio m of their sides, any shape, at least 1.
      quotient: ratio k of their aspect ratios, broadcast against it, at least 1.
    """
    square = np.square(mismatch)
    crossing = mismatch / np.sqrt(quotient)
    return np.where(quotient <= square, 1 / square, crossing / (1 + square - crossing))


def largest_quotient(scale_step: float, theta: float) -> float:
    """How far an anchor's aspect ratio may be from an object's, as a quotient K >= 1.

    Sizes that are `scale_step` apart are off by m = sqrt(scale_step) at worst, half
    way; IoU >= theta then holds up to K = [m (1 + theta) / (theta (1 + m^2))]^2, which
    is Eq. (1) solved for the quotient.

    Raises:
      InputError: the step is so large that a box half way between two sizes has an
        IoU below theta with both, whatever their aspect ratios: 1 / m^2 < theta, the
        case that Eq. (1) leaves out because one box then contains the other.
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
    """Eq. (1): the largest aspect ratio that anchors need for objects up to one.

    Args:
      object_aspect_ratio: of the objects, long over short side, at least 1.
      theta: the IoU to reach, in (0, 1).
      scale_step: S_{n+1} / S_n, at least 1; the paper's is 2.

    Returns:
      AR_max >= 1; 1 where square anchors suffice.

    Raises:
      InputError: as `largest_quotient`.
    """
    return max(1.0, object_aspect_ratio / largest_quotient(scale_step, theta))


def aspect_ratios(low: float, high: float, quotient: float) -> tuple[float, ...]:
    """The fewest aspect ratios of which one is within `quotient` of all in [low, high].

    An anchor serves an interval from its aspect ratio over the quotient to it times
    the quotient; this tiles [low, high] with such intervals. The outermost ratios are
    those of Eq. (1), low * quotient and high / quotient, so that none is longer than
    need be; the others lie between in equal proportion.

    Args:
      low: smallest aspect ratio, width / height, of the objects.
      high: the largest.
      quotient: K of `largest_quotient`, above 1.
    """
    # The paper's 36 = 2 * 2 * 9 may come out as 36.000000001.
    intervals = math.log(high / low) / (2 * math.log(quotient))
    count = max(1, math.ceil(intervals - 1e-9))
    if count == 1:
        return (math.sqrt(low * high),)
    return tuple(np.geomspace(low * quotient, high / quotient, count).tolist())


def best_centered_iou(
    sizes: np.ndarray, ratios: np.ndarray, shapes: np.ndarray
) -> np.ndarray:
    """IoU [N] of each object with the anchor shape that suits it best.

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
    """The closed form's worst case over all objects of a region, size by size.

    The minimum lies at an end of the region or half way between two anchors where
    every size has every aspect ratio; these places are looked at beside a grid, which
    is for sets where that is not so.

    Args:
      sizes: smallest and largest side of the objects, in pixels.
      ratios: their smallest and largest aspect ratio.
      shapes: [k, 2], (height, width) of the anchors in pixels.
      points: of the grid along either axis.

    Returns:
      Sides [P], rising, from the smallest to the largest; and [P], the IoU of the
      worst aspect ratio at each with the anchor that suits it best.
    """
    at_sizes = _places(sizes, np.sqrt(shapes.prod(axis=1)), points)
    at_ratios = _places(ratios, shapes[:, 1] / shapes[:, 0], points)
    grid = np.meshgrid(at_sizes, at_ratios, indexing="ij")
    best = best_centered_iou(grid[0].ravel(), grid[1].ravel(), shapes)
    return at_sizes, best.reshape(grid[0].shape).min(axis=1)


def _places(interval, anchors, points):
    """A grid of an interval, and the middles between anchors that lie in it."""
    low, high = interval
    middles = [math.sqrt(a * b) for a, b in itertools.pairwise(np.unique(anchors))]
    inside = [middle for middle in middles if low < middle < high]
    return np.unique(np.concatenate([np.geomspace(low, high, points), inside]))
