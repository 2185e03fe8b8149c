"""Figures of a split's objects: numbers, sizes, aspect ratios, anchors."""

from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np

from borrow_det.evaluation.average_precision import AREA_RANGES
from borrow_det.ops import anchor_design
from borrow_det.ops import anchors as anchor_ops
from borrow_det.tools.inspect.objects import Objects

QUANTILES = (0.05, 0.5, 0.95)
# Edges of the bars of the page, in pixels of the input and as width / height.
SIZE_EDGES = (0, 8, 16, 32, 64, 96, 192, 384)
RATIO_EDGES = (0, 1 / 4, 1 / 2, 1 / 1.25, 1.25, 2, 4)
COUNT_EDGES = (0, 1, 2, 5, 10, 20, 50, 100)


def measure(
    objects: Objects, class_names: Sequence[str], config: ml_collections.ConfigDict
) -> dict[str, Any]:
    """Computes the figures of a split.

    Returns:
      `images`, `images_without_objects`, `objects`, `ignored`, `without_area`;
      `objects_per_image` (mean, median, largest); `sizes` and `aspect_ratios` (width /
      height) at the input, at 5, 50 and 95 % of the objects; `by_size`: for small,
      medium and large the number of objects, the share of all, those with a lender and
      those that an anchor reaches; `small_with_lender` and `reached_by_anchors` (number
      and share); `classes`: the objects, images and share of each; `histograms`: counts
      between the edges SIZE_EDGES, RATIO_EDGES and COUNT_EDGES, the last one without an
      upper end. Shares are in [0, 1], or None without objects.
    """
    sides = input_sides(objects.boxes, config.input_size)
    sizes = _sizes(sides)
    ratios = sides[:, 1] / sides[:, 0]
    anchors = anchor_ops.make_anchors(config.anchors, config.input_size)
    iou = anchor_design.best_iou(objects.boxes, anchors)
    reached = iou >= config.loss.positive_iou
    per_image = np.bincount(objects.images, minlength=objects.num_images)
    total = len(sizes)
    by_size = {}
    for name, (low, high) in AREA_RANGES.items():
        inside = (sizes**2 >= low) & (sizes**2 < high)
        by_size[name] = {
            **part(inside.sum(), total),
            "with_lender": int((inside & objects.has_lender).sum()),
            "reached_by_anchors": int((inside & reached).sum()),
        }
    small = by_size["small"]
    return {
        "images": objects.num_images,
        "images_without_objects": int((per_image == 0).sum()),
        "objects": total,
        "ignored": objects.ignored,
        "without_area": objects.without_area,
        "objects_per_image": _per_image(per_image),
        "sizes": quantiles(sizes),
        "aspect_ratios": quantiles(ratios),
        "by_size": by_size,
        "small_with_lender": part(small["with_lender"], small["objects"]),
        "reached_by_anchors": part(reached.sum(), total),
        "classes": {
            name: part((objects.labels == label).sum(), total)
            | {"images": len(np.unique(objects.images[objects.labels == label]))}
            for label, name in enumerate(class_names)
        },
        "histograms": {
            "sizes": _histogram(sizes, SIZE_EDGES),
            "aspect_ratios": _histogram(ratios, RATIO_EDGES),
            "objects_per_image": _histogram(per_image, COUNT_EDGES),
        },
    }


def input_sides(boxes: np.ndarray, input_size: Sequence[int]) -> np.ndarray:
    """Returns (height, width) in pixels of the input of normalized boxes [N, 4]."""
    corners = boxes.astype(np.float64)
    return (corners[:, 2:] - corners[:, :2]) * np.array(input_size)


def is_small(objects: Objects, input_size: Sequence[int]) -> np.ndarray:
    """Returns the objects that are small at the input size by COCO's range, bool [N].

    Args:
      objects: the objects of a split.
      input_size: (height, width) of the network's input in pixels.
    """
    sizes = _sizes(input_sides(objects.boxes, input_size))
    return sizes**2 < AREA_RANGES["small"][1]


def _sizes(sides: np.ndarray) -> np.ndarray:
    """Returns square roots of areas, rounded so that 32 pixels are not 31.99999."""
    return np.round(np.sqrt(sides.prod(axis=1)), 3)


def part(count: int, total: int) -> dict[str, Any]:
    """Returns a number of objects and its share of a total, None of a total of 0."""
    return {
        "objects": int(count),
        "share": round(float(count / total), 6) if total else None,
    }


def quantiles(values: np.ndarray) -> list[float | None]:
    """Returns the values at 5, 50 and 95 %; None for each without values."""
    if not len(values):
        return [None] * len(QUANTILES)
    return [round(float(value), 4) for value in np.quantile(values, QUANTILES)]


def _histogram(values: np.ndarray, edges: Sequence[float]) -> list[int]:
    index = np.searchsorted(edges, values, side="right") - 1
    return np.bincount(index, minlength=len(edges)).tolist()


def _per_image(counts: np.ndarray) -> dict[str, Any]:
    if not len(counts):
        return {"mean": None, "median": None, "largest": None}
    return {
        "mean": round(float(counts.mean()), 6),
        "median": float(np.median(counts)),
        "largest": int(counts.max()),
    }
