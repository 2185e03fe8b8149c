"""Small objects with the predicted class of their lender: what a copied class gives.

Detections on small objects take the class that the same detector predicts for the
lender, and are scored again. The lender itself is known from annotations, its class is
not. What this adds to AP_small shows how much better the detector knows lenders than
small objects. It is not an upper bound of borrowing: a detector that is trained to
borrow can use what it sees of both.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from borrow_det.evaluation import average_precision
from borrow_det.ops import borrow_targets

MIN_IOU = 0.5  # Least IoU of a detection that is on an object.


def with_classes_of_lenders(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    scale: float,
) -> list[dict[str, Any]]:
    """Returns the detections, those on small objects with the class of the lender.

    A detection is on the object of its largest IoU, if that is at least 0.5. The class
    predicted for an object is that of the best detection on it. The lender of a small
    object is the largest larger object of its class in its image on which there is a
    detection. Of the detections on a small object with such a lender only the best
    stays, since the others would be duplicates of it. All other detections stay as
    they are.

    Args:
      ground_truth: COCO dictionary (see average_precision.py).
      detections: COCO results list.
      scale: least ratio of a lender's side to the small object's side.
    """
    objects = average_precision.grouped(ground_truth["annotations"], "image_id")
    found = average_precision.grouped(detections, "image_id")
    changed: list[dict[str, Any]] = []
    for image_id, of_image in found.items():
        ranked = sorted(of_image, key=lambda d: -d["score"])
        changed += _of_image(objects.get(image_id, []), ranked, scale)
    return changed


def _of_image(
    annotations: Sequence[Mapping[str, Any]],
    ranked: Sequence[Mapping[str, Any]],
    scale: float,
) -> list[dict[str, Any]]:
    """Changes the detections of one image, which are given by falling score."""
    objects = [a for a in annotations if not average_precision.is_ignored(a)]
    if not objects:
        return [dict(detection) for detection in ranked]
    overlap = average_precision.pairwise_iou(ranked, objects)
    place = np.where(overlap.max(axis=1) >= MIN_IOU, overlap.argmax(axis=1), -1)
    best = {int(g): int(np.flatnonzero(place == g)[0]) for g in set(place) - {-1}}
    classes = {g: ranked[d]["category_id"] for g, d in best.items()}
    lent = {g: classes[n] for g, n in _lenders(objects, scale, best).items()}
    kept = []
    for d, (detection, g) in enumerate(zip(ranked, place.tolist(), strict=True)):
        if g not in lent:
            kept.append(dict(detection))
        elif d == best[g]:
            kept.append({**detection, "category_id": lent[g]})
    return kept


def _lenders(
    objects: Sequence[Mapping[str, Any]], scale: float, detected: Mapping[int, int]
) -> dict[int, int]:
    """Returns the detected lender of each small object that has one, by index."""
    sides = [(a["bbox"][2] * a["bbox"][3]) ** 0.5 for a in objects]
    lenders = {}
    for g, borrower in enumerate(objects):
        if not average_precision.is_small(average_precision.object_area(borrower)):
            continue
        larger = [
            n
            for n, other in enumerate(objects)
            if n != g
            and n in detected
            and other["category_id"] == borrower["category_id"]
            and sides[g] > 0
            and borrow_targets.is_larger(np.array(sides[n]), np.array(sides[g]), scale)
        ]
        if larger:
            lenders[g] = max(larger, key=sides.__getitem__)
    return lenders
