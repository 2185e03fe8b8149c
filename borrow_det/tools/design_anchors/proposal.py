"""Search for the smallest set of anchors that covers the objects of a dataset.

No proposal covers a smaller share of the small, the medium or the large objects than
the config's own anchors do, unless that is allowed.
"""

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
from borrow_det.ops.anchors import (
    anchors_per_position,
    make_anchors,
    position_shapes,
    second_sizes,
)
from borrow_det.tools.design_anchors.size_ranges import shares_within, weighted

# Sizes in a fragment have two decimals and aspect ratios four digits. An IoU that
# misses theta by less than this because of rounding counts as reached.
TOLERANCE = 1e-3
# Fields of config.anchors that a proposal sets.
FIELDS = (
    *("sizes", "aspect_ratios", "second_aspect_ratios", "second_last"),
    "next_size",
)
# Number of objects in the search. Its results are then measured on all objects.
SAMPLE = 10_000
# For each number of anchors, the number of candidates measured on all objects.
_KEPT = 3
# If the wanted share cannot be reached, a gain of less than this share is not worth
# more anchors.
WORTHLESS = 0.005
# Weighted shares that differ by less are equal up to rounding.
_ROUNDING = 1e-9
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


class Goal(NamedTuple):
    """Requirements of a set of anchors.

    Attributes:
      theta: IoU with an anchor from which an object is covered.
      share: weighted share of the objects to cover, in (0, 1]: the weighted mean of the
        covered shares of small, medium and large objects.
      weights: weights of these shares, each above 0.
      allow_worse: true if a covered share may be smaller than with the config's own
        anchors.
    """

    theta: float
    share: float
    weights: tuple[float, ...]
    allow_worse: bool


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
    goal: Goal,
    sample: int = SAMPLE,
) -> tuple[ml_collections.ConfigDict, float]:
    """Finds the smallest set of anchors that covers the objects.

    The config's own anchors are the first candidate. The others have one size for each
    level. The sizes grow by a constant factor, up to the size of the
    image. The aspect ratios are those of Eq. (1) for this factor, or a single one, and
    are the same at every level. First anchors wider or higher than the image are
    omitted: no object of the datasets aquarium, bccd and traffic_vehicles needs them,
    at 300 or at 512 pixels. There are three kinds of candidates: with the first sizes
    alone; with second sizes of one aspect ratio, as in the paper; and with second sizes
    of all aspect ratios, which halves the step.

    The search covers the first size, the step, the kind, and the range of aspect
    ratios. Candidates are ranked by the weighted share of objects that the anchors of
    the grid cover, since the closed form ignores the distance to the next anchor, which
    matters for sizes near the stride. They do not depend on `goal.share`. Of the
    candidates that reach it, the result has the fewest anchors, and among these the
    largest share. If none reaches it, the result is the smallest candidate within
    WORTHLESS of the best. Candidates that cover a smaller share of a size range than
    the config's own anchors do are left out, unless `goal.allow_worse`; if none within
    WORTHLESS is left, the result is the best of the others.

    Args:
      objects: objects of the split.
      anchors: config.anchors, of which strides, clip and variances are kept.
      input_size: (height, width) in pixels.
      goal: requirements of the result.
      sample: number of objects in the search. The result is measured on all objects.

    Returns:
      A copy of `anchors` with new values of FIELDS, or an unchanged copy if nothing
      better was found, and the ratio of successive sizes that have all aspect ratios.

    Raises:
      InputError: theta is too large for any step between the sizes of levels.
    """
    every = math.ceil(len(objects.boxes) / sample)
    sampled = MeasuredObjects(*(values[::every] for values in objects))
    own, own_sampled = (
        covered_shares(these, anchors, input_size, goal.theta)
        for these in (objects, sampled)
    )
    ranked: list[tuple[int, float, _Candidate | None]] = [
        (sum(anchors_per_position(anchors)), weighted(own_sampled, goal.weights), None)
    ]
    floor = np.zeros_like(own) if goal.allow_worse else own_sampled
    for count, found in _best_by_count(
        sampled, anchors, input_size, goal, floor
    ).items():
        ranked += [(count, share, tried) for share, tried in found]
    # Sorting is stable: the config's own anchors come before their equals.
    smallest = sorted(ranked, key=lambda entry: (entry[0], -entry[1]))
    best = max(share for _, share, _ in ranked)
    wanted = goal.share - _ROUNDING
    within = best - WORTHLESS - _ROUNDING
    tries = [
        *((wanted, tried) for _, share, tried in smallest if share >= wanted),
        *((0.0, tried) for _, share, tried in smallest if share >= within),
        # The sample may lack the objects that make these worse than the config's own.
        *((0.0, tried) for _, _, tried in sorted(smallest, key=lambda e: -e[1])),
    ]
    for least, tried in tries:
        proposal = _with(anchors, tried)
        reached = covered_shares(objects, proposal, input_size, goal.theta)
        worse = not goal.allow_worse and bool((reached < own).any())
        if not worse and weighted(reached, goal.weights) >= least:
            break
    return proposal, tried.scale_step if tried else _step(anchors, goal)


def _step(anchors: ml_collections.ConfigDict, goal: Goal) -> float:
    """Returns the largest ratio of successive sizes, as far as Eq. (1) covers it."""
    steps = [after / before for before, after in itertools.pairwise(anchors.sizes)]
    return min(max(steps, default=1.0), 1 / goal.theta)


def covered_shares(
    objects: MeasuredObjects,
    anchors: ml_collections.ConfigDict,
    input_size: tuple[int, int],
    theta: float,
) -> np.ndarray:
    """Measures the covered share of the objects of each size range, float64 [3].

    It is nan for a range without objects.
    """
    iou = anchor_design.best_iou(objects.boxes, make_anchors(anchors, input_size))
    return shares_within(iou >= theta, objects.sizes)


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
    goal: Goal,
    floor: np.ndarray,
) -> dict[int, list[tuple[float, _Candidate]]]:
    """Returns the best candidates and their weighted shares, by number of anchors.

    The number is that of anchors per position, summed over levels. Candidates whose
    share of a size range is below `floor` [3] are left out.
    """
    boxes = objects.boxes

    # Successive candidates share most of their levels.
    @functools.lru_cache(maxsize=2048)
    def level_covers(stride: int, size: float, ratios: tuple[float, ...]) -> np.ndarray:
        shapes = np.array([(size / r**0.5, size * r**0.5) for r in ratios])
        iou = anchor_design.nearest_iou(boxes, stride, shapes, input_size, anchors.clip)
        return iou >= goal.theta

    best: dict[int, list[tuple[float, _Candidate]]] = {}
    for tried in _candidates(objects, len(anchors.strides), input_size, goal.theta):
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
        shares = shares_within(covered, objects.sizes)
        if not (shares < floor).any():
            found = [*best.get(count, []), (weighted(shares, goal.weights), tried)]
            best[count] = sorted(found, key=lambda pair: -pair[0])[:_KEPT]
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
    anchors: ml_collections.ConfigDict, found: _Candidate | None
) -> ml_collections.ConfigDict:
    """Returns a copy of `anchors` with the values of a candidate, if there is one."""
    changed = copy.deepcopy(anchors)
    if found is None:
        return changed
    changed.sizes = found.sizes
    changed.aspect_ratios = found.ratios
    changed.second_aspect_ratios = found.second_ratios
    changed.second_last = "geometric"
    changed.next_size = 0.0
    return changed
