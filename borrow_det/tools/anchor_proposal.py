"""From the objects of a data set to the anchors that they need."""

import copy
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from borrow_det.errors import InputError
from borrow_det.ops import anchor_coverage, anchor_design
from borrow_det.ops import anchors as anchor_ops

# Sizes in a fragment have two decimals and aspect ratios four digits; an IoU that
# rounding moved by less than this counts as reached.
TOLERANCE = 1e-3
# Of config.anchors: what a proposal sets.
FIELDS = (
    *("sizes", "aspect_ratios", "second_aspect_ratios", "second_last"),
    "next_size",
)
# Objects that the search looks at; the figures of the report are of all.
_SAMPLE = 10_000
# Where the wanted share is out of reach, this much of it is not worth more anchors.
_WORTHLESS = 0.005


class Objects(NamedTuple):
    """The objects of a split at the training input's size."""

    boxes: np.ndarray  # float32 [N, 4], normalised.
    sizes: np.ndarray  # float64 [N], square roots of areas, in pixels.
    ratios: np.ndarray  # float64 [N], width / height.


class Region(NamedTuple):
    """Sizes and aspect ratios, smallest and largest, that anchors are to serve."""

    sizes: tuple[float, float]
    ratios: tuple[float, float]


class Proposal(NamedTuple):
    """A set of anchors, and how near the closed form lets it stand to the objects."""

    anchors: object  # As config.anchors.
    scale_step: float  # From one size with all aspect ratios to the next.


class _Candidate(NamedTuple):
    proposal: Proposal
    per_position: int
    share: float  # Of the objects that were looked at, covered as placed.


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
    objects: Objects,
    region: Region,
    anchors,
    input_size: tuple[int, int],
    theta: float,
    share: float,
) -> Proposal:
    """The smallest set of anchors that covers the objects, on the levels of a config.

    Sizes are in equal proportion, one a level, and none larger than the image. The
    aspect ratios follow from Eq. (1) for their step, and are the same at every level.
    There are three kinds of set: the first sizes alone, the second sizes beside them
    with one aspect ratio (the paper's), and with all (which halves the step). First
    size, step and kind are searched: the closed form knows nothing of the distance to
    the next anchor, which sizes near the stride suffer from, so the share of objects
    that the anchors cover as placed decides. Of the sets that reach `share`, and whose
    closed form covers the region if any does, it is the one with the fewest anchors,
    then the one with the largest share. Where none reaches it, it is the smallest of
    those that come closest.

    Args:
      objects: of the split.
      region: `wanted_region` of them.
      anchors: config.anchors; its strides, clip and variances are kept.
      input_size: (height, width) in pixels.
      theta: the IoU that counts as covered.
      share: of the objects, in (0, 1].

    Returns:
      A copy of `anchors` with other values of FIELDS, and the step of its sizes.

    Raises:
      InputError: theta is so large that there is no step of sizes between levels.
    """
    every = math.ceil(len(objects.boxes) / _SAMPLE)
    boxes = objects.boxes[::every]
    candidates = []
    for proposal in _proposals(
        region, anchors, math.sqrt(math.prod(input_size)), theta
    ):
        iou = anchor_coverage.nearest_iou(boxes, proposal.anchors, input_size)
        count = sum(anchor_ops.anchors_per_position(proposal.anchors))
        candidates.append(_Candidate(proposal, count, float((iou >= theta).mean())))
    reached = [c for c in candidates if c.share >= share]
    if not reached:
        best = max(c.share for c in candidates)
        reached = [c for c in candidates if c.share >= best - _WORTHLESS]
    # The closed form takes longer: it is asked until one candidate satisfies it.
    reached.sort(key=lambda c: (c.per_position, -c.share))
    for candidate in reached:
        _, worst = closed_form(candidate.proposal.anchors, region, input_size)
        if worst.min() >= theta - TOLERANCE:
            return candidate.proposal
    return reached[0].proposal


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


def _proposals(
    region: Region, anchors, side: float, theta: float
) -> Iterator[Proposal]:
    limit = 1 / theta
    if limit < 1.1:
        raise InputError(
            f"theta={theta:g} would need sizes less than a factor 1.1 apart, more than "
            "one a level can give: choose a smaller --theta"
        )
    low, high = region.sizes
    firsts = np.geomspace(low, high, 1 + math.ceil(4 * math.log2(high / low) + 1e-9))
    levels = len(anchors.strides)
    middle = (math.sqrt(region.ratios[0] * region.ratios[1]),)
    for kind in ("none", "one", "all"):
        largest = limit**2 if kind == "all" else limit
        for step in np.geomspace(limit**0.5, largest, 7 if kind == "all" else 5):
            between = step**0.5 if kind == "all" else step
            quotient = anchor_design.largest_quotient(between, theta)
            ratios = anchor_design.aspect_ratios(*region.ratios, quotient)
            second = {"none": (), "one": middle, "all": ratios}[kind]
            lasts = ("geometric", "side") if second else ("geometric",)
            for first, last in itertools.product(firsts, lasts):
                # Deep levels that would have larger anchors than the image share one.
                sizes = [min(first * step**n, side) for n in range(levels)]
                changed = _with(anchors, sizes, ratios, second, last)
                yield Proposal(changed, between)


def _with(anchors, sizes, ratios, second, last):
    changed = copy.deepcopy(anchors)
    ratios, second = (
        tuple(float(f"{ratio:.4g}") for ratio in of_set) for of_set in (ratios, second)
    )
    changed.sizes = tuple(round(float(size), 2) for size in sizes)
    changed.aspect_ratios = (ratios,) * len(sizes)
    changed.second_aspect_ratios = second
    changed.second_last = last
    changed.next_size = 0.0
    return changed
