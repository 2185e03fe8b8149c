"""Search for the smallest set of anchors that covers the objects of a dataset."""

import copy
import functools
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import ml_collections
import numpy as np

from borrow_det.errors import InputError
from borrow_det.ops import anchor_design
from borrow_det.ops.anchors import make_anchors, position_shapes, second_sizes

# Sizes in a fragment have two decimals and aspect ratios four digits. An IoU that
# misses theta by less than this because of rounding counts as reached.
TOLERANCE = 1e-3
# Fields of config.anchors that a proposal sets.
FIELDS = (
    *("sizes", "aspect_ratios", "second_aspect_ratios", "second_last"),
    "next_size",
)
# Number of objects in the search. Its result is then measured on all objects.
_SAMPLE = 10_000
# If the wanted share cannot be reached, a gain of less than this share is not worth
# more anchors.
WORTHLESS = 0.005
# Candidates are made for the aspect ratios of these shares of the objects, whatever the
# wanted share. How many other objects they cover is then measured.
_SERVED = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


class MeasuredObjects(NamedTuple):
    """Objects of a split at the input size of the network.

    Attributes:
      boxes: normalized boxes, float32 [N, 4].
      sizes: square roots of areas in pixels, float64 [N].
      ratios: width / height, float64 [N].
    """

    boxes: np.ndarray
    sizes: np.ndarray
    ratios: np.ndarray


class Region(NamedTuple):
    """Smallest and largest size and aspect ratio that anchors should cover."""

    sizes: tuple[float, float]
    ratios: tuple[float, float]


class _Candidate(NamedTuple):
    """Values of config.anchors that the search tries."""

    sizes: tuple[float, ...]
    ratios: tuple[tuple[float, ...], ...]
    second_ratios: tuple[float, ...]
    scale_step: float  # Ratio of successive sizes that have all aspect ratios.


def measure(boxes: np.ndarray, input_size: tuple[int, int]) -> MeasuredObjects:
    """Measures boxes [N, 4] of images that are resized to input_size."""
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64) * np.array(input_size)
    return MeasuredObjects(
        boxes, np.sqrt(sides.prod(axis=1)), sides[:, 1] / sides[:, 0]
    )


def wanted_region(objects: MeasuredObjects, share: float) -> Region:
    """Returns sizes and aspect ratios that contain at least `share` of the objects.

    Each interval is the one with the smallest quotient of its ends that contains a
    share p of the objects, since short intervals need the fewest anchors. p is the
    smallest value for which `share` of the objects are inside both; it is at most
    (1 + share) / 2.
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
    objects: MeasuredObjects,
    anchors: ml_collections.ConfigDict,
    input_size: tuple[int, int],
    theta: float,
    share: float,
) -> tuple[ml_collections.ConfigDict, float]:
    """Finds the smallest set of anchors that covers the objects.

    Each level has one size. The sizes grow by a constant factor, up to the size of the
    image. The aspect ratios are those of Eq. (1) for this factor, or a single one, and
    are the same at every level. First anchors wider or higher than the image are
    omitted: no object of the datasets aquarium, bccd and traffic_vehicles needs them,
    at 300 or at 512 pixels. There are three kinds of candidates: with the first sizes
    alone; with second sizes of one aspect ratio, as in the paper; and with second sizes
    of all aspect ratios, which halves the step.

    The search covers the first size, the step, the kind, and the range of aspect
    ratios. Candidates are ranked by the share of objects that the anchors of the grid
    cover, since the closed form ignores the distance to the next anchor, which matters
    for sizes near the stride. They do not depend on `share`. Of the candidates that
    reach it, the result has the fewest anchors, and among these the largest share. If
    none reaches it, the result is the smallest candidate within WORTHLESS of the best.

    Args:
      objects: objects of the split.
      anchors: config.anchors, of which strides, clip and variances are kept.
      input_size: (height, width) in pixels.
      theta: IoU from which an object is covered.
      share: share of the objects to cover, in (0, 1].

    Returns:
      A copy of `anchors` with new values of FIELDS, and the ratio of successive sizes
      that have all aspect ratios.

    Raises:
      InputError: theta is too large for any step between the sizes of levels.
    """
    best = sorted(_best_by_count(objects, anchors, input_size, theta).items())
    for _, (covered, found) in best:
        if covered >= share:
            proposal = _with(anchors, found)
            placed = make_anchors(proposal, input_size)
            iou = anchor_design.best_iou(objects.boxes, placed)
            # The search may have used a sample of the objects.
            if (iou >= theta).mean() >= share:
                return proposal, found.scale_step
    enough = max(covered for _, (covered, _) in best) - WORTHLESS
    found = next(found for _, (covered, found) in best if covered >= enough)
    return _with(anchors, found), found.scale_step


def closed_form(
    anchors: ml_collections.ConfigDict, region: Region, input_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Applies `anchor_design.worst_centered_iou` to a config's anchors.

    Returns:
      Sides [n] in pixels, and the worst IoU [n] at each side.
    """
    shapes = all_shapes(anchors, input_size)
    return anchor_design.worst_centered_iou(region.sizes, region.ratios, shapes)


def all_shapes(
    anchors: ml_collections.ConfigDict, input_size: tuple[int, int]
) -> np.ndarray:
    """Returns (height, width) in pixels of the anchors of all levels, [k, 2]."""
    return np.concatenate(position_shapes(anchors, input_size))


def _shortest(values: np.ndarray, share: float) -> tuple[float, float]:
    """Returns the ends of the shortest interval that contains a share of the values."""
    values = np.sort(values)
    count = max(1, math.ceil(share * len(values) - 1e-9))
    widths = values[count - 1 :] - values[: len(values) - count + 1]
    start = int(np.argmin(widths))
    return values[start], values[start + count - 1]


def _best_by_count(
    objects: MeasuredObjects,
    anchors: ml_collections.ConfigDict,
    input_size: tuple[int, int],
    theta: float,
) -> dict[int, tuple[float, _Candidate]]:
    """Returns the largest covered share and its candidate, by number of anchors.

    The number is that of anchors per position, summed over levels.
    """
    boxes = objects.boxes[:: math.ceil(len(objects.boxes) / _SAMPLE)]

    # Successive candidates share most of their levels.
    @functools.lru_cache(maxsize=2048)
    def level_covers(stride: int, size: float, ratios: tuple[float, ...]) -> np.ndarray:
        shapes = np.array([(size / r**0.5, size * r**0.5) for r in ratios])
        iou = anchor_design.nearest_iou(boxes, stride, shapes, input_size, anchors.clip)
        return iou >= theta

    best: dict[int, tuple[float, _Candidate]] = {}
    for tried in _candidates(objects, len(anchors.strides), input_size, theta):
        seconds = second_sizes(tried.sizes, input_size, "geometric")
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


def _candidates(
    objects: MeasuredObjects, levels: int, input_size: tuple[int, int], theta: float
) -> Iterator[_Candidate]:
    limit = 1 / theta
    if limit < 1.1:
        raise InputError(
            f"theta={theta:g} needs sizes less than a factor of 1.1 apart, but each "
            "level has one size: choose a smaller --theta"
        )
    side = math.sqrt(math.prod(input_size))
    regions = [wanted_region(objects, share) for share in _SERVED]
    low, high = regions[-1].sizes
    firsts = np.geomspace(low, high, 1 + math.ceil(4 * math.log2(high / low) + 1e-9))
    # In eighths of the largest step that Eq. (1) allows between neighbors.
    for served, eighths in itertools.product(regions, range(2, 9)):
        between = limit ** (eighths / 8)
        quotient = anchor_design.largest_quotient(between, theta)
        middle = (_short(math.sqrt(math.prod(served.ratios))),)
        equation_1 = anchor_design.aspect_ratios(*served.ratios, quotient)
        for ratios in {middle, tuple(_short(ratio) for ratio in equation_1)}:
            kinds: list[tuple[float, tuple[float, ...]]] = [(between**2, ratios)]
            if eighths >= 4:
                kinds += [(between, ()), (between, middle)]
            for (step, second), first in itertools.product(kinds, firsts):
                # No anchor is larger than the image.
                sizes = tuple(
                    round(float(min(first * step**n, side)), 2) for n in range(levels)
                )
                fitting = tuple(_fitting(size, ratios, input_size) for size in sizes)
                yield _Candidate(sizes, fitting, second, between)


def _short(ratio: float) -> float:
    return float(f"{ratio:.4g}")


def _fitting(
    size: float, ratios: tuple[float, ...], input_size: tuple[int, int]
) -> tuple[float, ...]:
    """Returns the ratios whose anchors fit into the image, or else the nearest one."""
    height, width = input_size

    def excess(ratio: float) -> float:
        return max(size * ratio**0.5 / width, size / ratio**0.5 / height)

    fitting = tuple(ratio for ratio in ratios if excess(ratio) <= 1)
    return fitting or (min(ratios, key=excess),)


def _with(
    anchors: ml_collections.ConfigDict, found: _Candidate
) -> ml_collections.ConfigDict:
    changed = copy.deepcopy(anchors)
    changed.sizes = found.sizes
    changed.aspect_ratios = found.ratios
    changed.second_aspect_ratios = found.second_ratios
    changed.second_last = "geometric"
    changed.next_size = 0.0
    return changed
