"""Figures of a set of anchors, for JSON."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from borrow_det.ops import anchor_design
from borrow_det.ops.anchors import anchors_per_position, make_anchors
from borrow_det.tools.design_anchors import proposal
from borrow_det.tools.design_anchors.size_ranges import RANGES, shares_within, weighted

_EDGES = (0, 8, 16, 32, 64, 96, 192, math.inf)  # In pixels of the network's input.


def measured(
    anchors: ConfigDict,
    objects: proposal.MeasuredObjects,
    region: proposal.Region,
    input_size: tuple[int, int],
    goal: proposal.Goal,
) -> tuple[dict[str, Any], np.ndarray]:
    """Returns figures of a set of anchors, and which objects it covers, bool [N].

    Args:
      anchors: values of config.anchors.
      objects: the objects, N of them.
      region: sizes and aspect ratios for the closed form.
      input_size: (height, width) in pixels.
      goal: requirements, for `theta` and the weights.
    """
    placed = make_anchors(anchors, input_size)
    covered = anchor_design.best_iou(objects.boxes, placed) >= goal.theta
    shapes = proposal.all_shapes(anchors, input_size)
    centered = anchor_design.best_centered_iou(objects.sizes, objects.ratios, shapes)
    reachable = centered >= goal.theta - proposal.TOLERANCE
    sides, worst = proposal.closed_form(anchors, region, input_size)
    figures = {
        "anchors_per_position": list(anchors_per_position(anchors)),
        "anchors": len(placed),
        **{name: _plain_nested(getattr(anchors, name)) for name in proposal.FIELDS},
        "worst_case_iou": plain(worst.min()),
        "guaranteed_sizes": _longest_run(
            sides, worst >= goal.theta - proposal.TOLERANCE
        ),
        "share_centered": plain(reachable.mean()),
        "share_measured": plain(covered.mean()),
        "share_weighted": plain(
            weighted(shares_within(covered, objects.sizes), goal.weights)
        ),
        "missed_shape": _describe(objects, ~covered & ~reachable),
        "missed_place": _describe(objects, ~covered & reachable),
    }
    return figures, covered


def _describe(objects: proposal.MeasuredObjects, missed: np.ndarray) -> dict[str, Any]:
    """Returns the count and the 5, 50 and 95 % quantiles of the missed objects."""
    if not missed.any():
        return {"objects": 0}
    sizes, ratios = (
        [plain(v) for v in np.quantile(values[missed], (0.05, 0.5, 0.95))]
        for values in (objects.sizes, objects.ratios)
    )
    return {"objects": int(missed.sum()), "sizes": sizes, "aspect_ratios": ratios}


def _longest_run(sides: np.ndarray, holds: np.ndarray) -> list[float] | None:
    """Returns the smallest and largest side of the longest run in which `holds`."""
    best: list[float] | None = None
    start: int | None = None
    for i, held in enumerate(holds):
        if not held:
            start = None
            continue
        start = i if start is None else start
        if best is None or sides[i] / sides[start] >= best[1] / best[0]:
            best = [plain(sides[start]), plain(sides[i])]
    return best


def bins(sizes: np.ndarray, covered: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Counts objects and covered shares, by COCO's size classes and by finer ones."""
    named: list[tuple[str, tuple[float, float]]] = [*RANGES.items()]
    for low, high in itertools.pairwise(_EDGES):
        text = f"{low}-{high}" if high < math.inf else f"{low}-"
        named.append((text, (low, high)))
    bins = []
    for name, (low, high) in named:
        inside = (sizes >= low) & (sizes < high)
        shares = {
            set_name: plain(hit[inside].mean()) if inside.any() else None
            for set_name, hit in covered.items()
        }
        bins.append({"size": name, "objects": int(inside.sum()), **shares})
    return bins


def plain(value: float) -> float | int:
    """Rounds a number to ten digits, so that JSON has 3, not 3.0000000000000004."""
    value = float(f"{float(value):.10g}")
    return int(value) if value.is_integer() else value


def _plain_nested(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain_nested(inner) for inner in value]
    return value if isinstance(value, str) else plain(value)
