"""Analysis of an evaluation: curves, operating points, confusion, kinds of errors.

`STEP.analysis.json` has, next to the IoU threshold, the `classes` and the `sizes`:
  curves: by class and size (`all`, `small`, `medium`, `large`), the number of `objects`
    and the lists `score`, `precision`, `recall`, `f1` (curves.py). `all` has the
    objects of all classes together; a class of that name is called `all (class)`.
  operating_points: points of the curve of all classes and sizes: `best_f1` and those
    that were asked for; null if no score reaches the value.
  by_class: the point of the best F1 of each class, or null.
  confusion: the `counts` (confusion.py) at the minimum `score` of the best F1.
  errors: counts of errors and the AP50 that they cost, by kind (errors.py).
The sizes are COCO's area ranges. Objects outside a range are ignored, as for AP_small.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from borrow_det.evaluation import errors
from borrow_det.evaluation.confusion import confusion_counts
from borrow_det.evaluation.curves import BEST_F1, Curve, curve, operating_point
from borrow_det.evaluation.errors import IOU
from borrow_det.evaluation.pairing import (
    SIZES,
    Pairing,
    Pairs,
    counted_objects,
    label_numbers,
)

ALL = "all"
BACKGROUND = "background"


def analyze(
    truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    lender_scale: float,
    points: Sequence[str] = (),
    max_detections: int = 100,
) -> dict[str, Any]:
    """Computes the content of `STEP.analysis.json` (see the module docstring).

    Args:
      truth: COCO dictionary (see average_precision.py).
      detections: COCO results list.
      lender_scale: least ratio of a lender's side to the small object's side.
      points: names of operating points in addition to `best_f1` (curves.py).
      max_detections: number of detections of an image and class that count.
    """
    names = [category["name"] for category in truth["categories"]]
    pairing = Pairing(truth, detections, max_detections, IOU)
    pairs = {
        size: pairing.pair(
            IOU, counted_objects(truth["annotations"], area_range), area_range
        )
        for size, area_range in SIZES.items()
    }
    curves = {
        size: _curves(truth, detections, pairs[size], area_range)
        for size, area_range in SIZES.items()
    }
    found = {
        name: operating_point(curves[ALL][ALL], name)
        for name in dict.fromkeys((BEST_F1, *points))
    }
    best = found[BEST_F1]
    threshold = best["score"] if best else None
    counts = confusion_counts(truth, detections, pairs[ALL], threshold, IOU)
    return {
        "iou": IOU,
        "classes": names,
        "sizes": list(SIZES),
        "curves": {
            key: {size: curves[size][key].as_json() for size in SIZES}
            for key in curves[ALL]
        },
        "operating_points": found,
        "by_class": {
            name: operating_point(curves[ALL][curve_key(name)], BEST_F1)
            for name in names
        },
        "confusion": {
            "score": threshold,
            "iou": IOU,
            "classes": [*names, BACKGROUND],
            "counts": counts.tolist(),
        },
        "errors": errors.analyze(truth, detections, pairs, lender_scale, threshold),
    }


def curve_key(name: str) -> str:
    """Returns the key of a class among the `curves`."""
    return f"{ALL} (class)" if name == ALL else name


def _curves(
    truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    pairs: Pairs,
    area_range: tuple[float, float],
) -> dict[str, Curve]:
    """Returns the curves of an area range, of all classes and of each, by key."""
    counted = counted_objects(truth["annotations"], area_range)
    objects = label_numbers(truth, truth["annotations"])[counted]
    order = pairs.order[~pairs.ignored[pairs.order]]
    scores = np.array([detections[d]["score"] for d in order], float)
    labels = label_numbers(truth, detections)[order]
    hits = pairs.hit[order]
    result = {ALL: curve(scores, hits, int((objects >= 0).sum()))}
    for k, category in enumerate(truth["categories"]):
        own = labels == k
        number = int((objects == k).sum())
        key = curve_key(category["name"])
        result[key] = curve(scores[own], hits[own], number)
    return result
