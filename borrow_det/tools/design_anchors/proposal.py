"""From the objects of a data set to the anchors that they need."""

import copy
import functools
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from borrow_det.errors import InputError
from borrow_det.ops import anchor_design
from borrow_det.ops import anchors as anchor_ops

# Sizes in a fragment have two decimals and aspect ratios four digits; an IoU that
# rounding moved by less than this counts as reached.
TOLERANCE = 1e-3
# Of config.anchors: what a proposal sets.
FIELDS = (
    *("sizes", "aspect_ratios", "second_aspect_ratios", "second_last"),
    "next_size",
)
# Objects that the search looks at; what it finds is then judged on all.
_SAMPLE = 10_000
# Where the wanted share is out of reach, this much of it is not worth more anchors.
WORTHLESS = 0.005
# Sets are made for the aspect ratios of these shares of the objects, whatever share is
# wanted: how many of the others they cover is seen when they are measured.
_SERVED = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


class Objects(NamedTuple):
    """The objects of a split at the training input's size."""

    boxes: np.ndarray  # float32 [N, 4], normalised.
    sizes: np.ndarray  # float64 [N], square roots of areas, in pixels.
    ratios: np.ndarray  # float64 [N], width / height.


class Region(NamedTuple):
    """Sizes and aspect ratios, smallest and largest, that anchors are to serve."""

    sizes: tuple[float, float]
    ratios: tuple[float, float]


class _Set(NamedTuple):
    """Of config.anchors what is tried."""

    sizes: tuple[float, ...]
    ratios: tuple[tuple[float, ...], ...]
    second_ratios: tuple[float, ...]
    scale_step: float  # From one size with all aspect ratios to the next.


def measure(boxes: np.ndarray, input_size: tuple[int, int]) -> Objects:
    """Objects from their boxes [N, 4]; the image is resized whole to input_size."""
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64) * np.array(input_size)
    return Objects(boxes, np.sqrt(sides.prod(axis=1)), sides[:, 1] / sides[:, 0])


def wanted_region(objects: Objects, share: float) -> Region:
    """The sizes and aspect ratios that at least `share` of the objects have, jointly.

    Both intervals are the shortest (in proportion) that hold a share p of the
    objects: short ones need the fewest anchors. p is the smallest with which `share`
    of the objects lie in both; it is never above (1 + share) / 2.
    """
    logs = np.log(objects.sizes), np.log(objects.ratios)
    for p in np.linspace(share, (1 + share) / 2, 65):
        intervals = [_shortest(values, p) for values in logs]
        inside = np.ones(len(objects.boxes), bool)
        for values, (low, high) in zip(logs, intervals, strict=True):
            inside &= (values >= low) & (values <= high)
        if inside.mean() >= share:
            break
    sizes, ratios = ((math.exp(low), math.exp(high)) for low, high in intervals)
    return Region(sizes, ratios)


def propose(
    objects: Objects, anchors, input_size: tuple[int, int], theta: float, share: float
) -> tuple[object, float]:
    """The smallest set of anchors that covers the objects, on the levels of a config.

    Sizes are in equal proportion, one a level, and none larger than the image. The
    aspect ratios are those of Eq. (1) for the sizes' step, or one, and are the same at
    every level, but for first anchors that would be wider or higher than the image:
    these are left out, since no object of aquarium, bccd or traffic_vehicles needs
    them, at 300 pixels or at 512. There are three kinds of set: the first sizes alone,
    the second sizes beside them with one aspect ratio (the paper's), and with all
    (which halves the step).

    First size, step, kind and the range of aspect ratios that is served are searched:
    the closed form knows nothing of the distance to the next anchor, which sizes near
    the stride suffer from, so the share of objects that the anchors cover as placed
    decides. The sets that are tried are the same for any `share`. Of those that reach
    it the one with the fewest anchors is taken, then the one with the largest share;
    where none does, the smallest that comes within WORTHLESS of the best.

    Args:
      objects: of the split.
      anchors: config.anchors; its strides, clip and variances are kept.
      input_size: (height, width) in pixels.
      theta: the IoU that counts as covered.
      share: of the objects, in (0, 1].

    Returns:
      A copy of `anchors` with other values of FIELDS, and the step of its sizes: from
      one with all aspect ratios to the next.

    Raises:
      InputError: theta is so large that there is no step of sizes between levels.
    """
    best = sorted(_best_by_count(objects, anchors, input_size, theta).items())
    for _, (covered, found) in best:
        if covered >= share:
            proposal = _with(anchors, found)
            placed = anchor_ops.make_anchors(proposal, input_size)
            iou = anchor_design.best_iou(objects.boxes, placed)
            # The search may have seen a sample only.
            if (iou >= theta).mean() >= share:
                return proposal, found.scale_step
    enough = max(covered for _, (covered, _) in best) - WORTHLESS
    found = next(found for _, (covered, found) in best if covered >= enough)
    return _with(anchors, found), found.scale_step


def closed_form(anchors, region: Region, input_size: tuple[int, int]):
    """`anchor_design.worst_centered_iou` of a config's anchors: sides, and IoU."""
    shapes = all_shapes(anchors, input_size)
    return anchor_design.worst_centered_iou(region.sizes, region.ratios, shapes)


def all_shapes(anchors, input_size: tuple[int, int]) -> np.ndarray:
    """(height, width) in pixels of a config's anchors at any level."""
    return np.concatenate(anchor_ops.position_shapes(anchors, input_size))


def _shortest(values, share):
    """Ends of the shortest interval that holds a share of the values."""
    values = np.sort(values)
    count = max(1, math.ceil(share * len(values) - 1e-9))
    widths = values[count - 1 :] - values[: len(values) - count + 1]
    start = int(np.argmin(widths))
    return values[start], values[start + count - 1]


def _best_by_count(objects, anchors, input_size, theta):
    """By number of anchors a position, all levels together: largest share, and set."""
    boxes = objects.boxes[:: math.ceil(len(objects.boxes) / _SAMPLE)]

    # Sets that follow each other have most of their levels in common.
    @functools.lru_cache(maxsize=2048)
    def level_covers(stride, size, ratios):
        shapes = np.array([(size / r**0.5, size * r**0.5) for r in ratios])
        iou = anchor_design.nearest_iou(
            boxes, stride, shapes, input_size, anchors.clip
        )
        return iou >= theta

    best = {}
    for tried in _sets(objects, len(anchors.strides), input_size, theta):
        seconds = anchor_ops.second_sizes(tried.sizes, input_size, "geometric")
        covered = np.zeros(len(boxes), bool)
        count = 0
        for stride, first, ratios, second in zip(
            anchors.strides, tried.sizes, tried.ratios, seconds, strict=True
        ):
            covered |= level_covers(stride, first, ratios)
            if tried.second_ratios:
                covered |= level_covers(stride, second, tried.second_ratios)
            count += len(ratios + tried.second_ratios)
        share = float(covered.mean())
        if count not in best or share > best[count][0]:
            best[count] = share, tried
    return best


def _sets(objects, levels, input_size, theta) -> Iterator[_Set]:
    limit = 1 / theta
    if limit < 1.1:
        raise InputError(
            f"theta={theta:g} would need sizes less than a factor 1.1 apart, more than "
            "one a level can give: choose a smaller --theta"
        )
    side = math.sqrt(math.prod(input_size))
    regions = [wanted_region(objects, share) for share in _SERVED]
    low, high = regions[-1].sizes
    firsts = np.geomspace(low, high, 1 + math.ceil(4 * math.log2(high / low) + 1e-9))
    # Eighths: up to the largest step that Eq. (1) allows between neighbours.
    for served, eighths in itertools.product(regions, range(2, 9)):
        between = limit ** (eighths / 8)
        quotient = anchor_design.largest_quotient(between, theta)
        middle = (_short(math.sqrt(math.prod(served.ratios))),)
        equation_1 = anchor_design.aspect_ratios(*served.ratios, quotient)
        for ratios in {middle, tuple(_short(ratio) for ratio in equation_1)}:
            kinds = [(between**2, ratios)]
            if eighths >= 4:
                kinds += [(between, ()), (between, middle)]
            for (step, second), first in itertools.product(kinds, firsts):
                # Deep levels that would have larger anchors than the image share one.
                sizes = (min(first * step**n, side) for n in range(levels))
                sizes = tuple(round(float(size), 2) for size in sizes)
                of_levels = tuple(_that_fit(size, ratios, input_size) for size in sizes)
                yield _Set(sizes, of_levels, second, between)


def _short(ratio):
    return float(f"{ratio:.4g}")


def _that_fit(size, ratios, input_size):
    """Those with which an anchor is within the image's sides; the nearest, if none."""
    height, width = input_size

    def excess(ratio):
        return max(size * ratio**0.5 / width, size / ratio**0.5 / height)

    fitting = tuple(ratio for ratio in ratios if excess(ratio) <= 1)
    return fitting or (min(ratios, key=excess),)


def _with(anchors, found: _Set):
    changed = copy.deepcopy(anchors)
    changed.sizes = found.sizes
    changed.aspect_ratios = found.ratios
    changed.second_aspect_ratios = found.second_ratios
    changed.second_last = "geometric"
    changed.next_size = 0.0
    return changed
