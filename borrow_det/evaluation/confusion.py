"""Confusion matrix of detections: annotated classes against detected classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from borrow_det.evaluation.average_precision import grouped
from borrow_det.evaluation.pairing import Pairs, counted_objects, overlaps


def confusion_counts(
    truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    pairs: Pairs,
    score: float | None,
    iou: float = 0.5,
) -> np.ndarray:
    """Counts the pairs of annotated and detected classes.

    In each image, detections of a score of at least `score` take objects of any class
    by falling score: each takes the free object of the highest IoU, one of its class if
    several have it. Ignored objects, and detections that COCO's rule
    ignores or does not count, are left out.

    Args:
      truth: COCO dictionary (see average_precision.py).
      detections: COCO results list.
      pairs: COCO's pairs of these.
      score: minimum score; None for no detections.
      iou: least IoU of a pair.

    Returns:
      int [K + 1, K + 1] for K classes and the background, which is last. Rows are
      annotated classes: a row ends with the objects that no detection takes. Columns
      are detected classes: a column ends with the detections that take no object.
    """
    label = {category["id"]: k for k, category in enumerate(truth["categories"])}
    background = len(label)
    counts = np.zeros((background + 1, background + 1), int)
    kept = [
        detections[d]
        for d in pairs.order.tolist()
        if not pairs.ignored[d]
        and score is not None
        and detections[d]["score"] >= score
    ]
    annotations = truth["annotations"]
    counted = counted_objects(annotations)
    objects = grouped(
        [
            annotation
            for annotation, counts_here in zip(annotations, counted, strict=True)
            if counts_here and annotation["category_id"] in label
        ],
        "image_id",
    )
    found = grouped(kept, "image_id")
    for image in {**objects, **found}:
        here, there = found.get(image, []), objects.get(image, [])
        columns = [label[d["category_id"]] for d in here]
        rows = [label[a["category_id"]] for a in there]
        takes = _take(overlaps(here, there), np.array(columns), np.array(rows), iou)
        for column, g in zip(columns, takes, strict=True):
            counts[background if g is None else rows[g], column] += 1
        for g in set(range(len(rows))) - set(takes):
            counts[rows[g], background] += 1
    return counts


def shares(counts: np.ndarray) -> np.ndarray:
    """Divides each row by its sum, float [K + 1, K + 1]; nan in rows without counts.

    The background's row has the shares of the false positives.
    """
    total = counts.sum(axis=1, keepdims=True)
    return np.where(total > 0, counts / np.maximum(total, 1), np.nan)


def _take(
    values: np.ndarray, detected: np.ndarray, annotated: np.ndarray, iou: float
) -> list[int | None]:
    """Returns the object that each detection of an image takes.

    Args:
      values: float [D, G], IoU of the detections, best first, and the objects.
      detected: int [D], labels.
      annotated: int [G], labels.
      iou: least IoU of a pair.
    """
    takes: list[int | None] = [None] * len(values)
    free = np.ones(values.shape[1], bool)
    for d in np.flatnonzero((values >= iou).any(axis=1)).tolist():
        candidates = np.flatnonzero(free & (values[d] >= iou)).tolist()
        same = annotated == detected[d]
        if candidates:
            g = max(candidates, key=lambda g: (values[d, g], same[g]))
            takes[d], free[g] = g, False
    return takes
