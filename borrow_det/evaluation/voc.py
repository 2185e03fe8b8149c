"""Average precision with the conventions of Pascal VOC's development kit."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from borrow_det.evaluation.average_precision import grouped, is_ignored, pairwise_iou

_ByImage = Mapping[Any, Sequence[Mapping[str, Any]]]


def voc_metrics(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    iou: float = 0.5,
    inclusive_pixels: bool = True,
) -> dict[str, float]:
    """Computes Pascal VOC's average precision.

    The detections of a class are processed by falling score, ties in the order of the
    list. Each is compared with the one object of its image that it overlaps most. It is
    a true positive if the overlap is at least `iou` and the object has not been found
    before; otherwise it is a false positive. Detections on `difficult` objects and
    crowds are neither.

    Source: VOCdevkit/VOCcode/VOCevaldet.m (2007: 11-point; 2010 on: all points).

    Args:
      ground_truth: COCO dictionary (see average_precision.py).
      detections: COCO results list.
      iou: smallest IoU of a true positive.
      inclusive_pixels: add one pixel to every width and height, as the development kit
        does: there, a box from pixel 3 to pixel 5 is 3 wide. Affects small objects
          only.

    Returns:
      AP_11point and AP_allpoint, means over the classes that have an object, and
      AP_11point/{class} and AP_allpoint/{class}, nan for classes without objects. All
      are in [0, 1].
    """
    objects = grouped(ground_truth["annotations"], "category_id")
    detected = grouped(detections, "category_id")
    metrics: dict[str, float] = {"AP_11point": math.nan, "AP_allpoint": math.nan}
    for category in ground_truth["categories"]:
        recall, precision = _voc_curve(
            grouped(objects.get(category["id"], ()), "image_id"),
            grouped(detected.get(category["id"], ()), "image_id"),
            iou,
            float(inclusive_pixels),
        )
        metrics[f"AP_11point/{category['name']}"] = _eleven_points(recall, precision)
        metrics[f"AP_allpoint/{category['name']}"] = _all_points(recall, precision)
    for kind in ("AP_11point", "AP_allpoint"):
        values = [v for k, v in metrics.items() if k.startswith(kind + "/")]
        values = [value for value in values if not math.isnan(value)]
        metrics[kind] = float(np.mean(values)) if values else math.nan
    return metrics


def _voc_curve(
    objects: _ByImage, detected: _ByImage, iou: float, one: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns recall and precision after each detection of one class.

    Recall is nan if the class has no object.

    Args:
      objects: image id to the objects of the class.
      detected: image id to the detections of the class.
      iou: smallest IoU of a true positive.
      one: pixels that are added to every width and height.
    """
    scores: list[float] = []
    hits: list[bool] = []
    misses: list[bool] = []
    count = 0
    for image_id in {**objects, **detected}:
        truth = objects.get(image_id, [])
        ignored = np.array([is_ignored(t) for t in truth], bool)
        count += int(np.sum(~ignored))
        found = detected.get(image_id, [])
        # The detection with the higher score takes the object.
        order = np.argsort([-d["score"] for d in found], kind="stable")
        found = [found[i] for i in order]
        hit, miss = _voc_hits(pairwise_iou(found, truth, one), ignored, iou)
        scores += [d["score"] for d in found]
        hits += hit
        misses += miss
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    true = np.cumsum(np.asarray(hits, np.float64)[order])
    false = np.cumsum(np.asarray(misses, np.float64)[order])
    recall = true / count if count else np.full(len(order) + 1, math.nan)
    return recall, true / np.maximum(true + false, np.finfo(np.float64).tiny)


def _voc_hits(
    overlaps: np.ndarray, ignored: np.ndarray, iou: float
) -> tuple[list[bool], list[bool]]:
    """Sorts the detections of an image into true and false positives.

    Args:
      overlaps: float64 [D, G], IoU of the detections by falling score and the objects.
      ignored: bool [G], true for objects that do not count.
      iou: smallest IoU of a true positive.

    Returns:
      For each detection: true positive, false positive. Both may be false.
    """
    hits, misses = [], []
    taken = np.zeros(len(ignored), bool)
    for row in overlaps:
        best = int(np.argmax(row)) if len(row) else -1
        if best < 0 or row[best] < iou:
            hit, miss = False, True
        elif ignored[best]:
            hit, miss = False, False
        else:
            hit, miss = not taken[best], bool(taken[best])
            taken[best] = True
        hits.append(hit)
        misses.append(miss)
    return hits, misses


def _eleven_points(recall: np.ndarray, precision: np.ndarray) -> float:
    """Mean over recalls 0, 0.1 ... 1 of the best precision at that recall or more."""
    if np.isnan(recall).any():
        return math.nan
    # k * 0.1, not k / 10: 3, 6 and 7 times 0.1 are rounded up, so that a recall of
    # exactly 9 in 15 does not reach 0.6. Published results were computed like this
    # (np.arange(0, 1.1, 0.1) in py-faster-rcnn's voc_eval and its descendants).
    levels = [k * 0.1 for k in range(11)]
    return float(np.mean([max(precision[recall >= t], default=0.0) for t in levels]))


def _all_points(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area under the precision-recall curve, made monotone from the right."""
    if np.isnan(recall).any():
        return math.nan
    recall = np.concatenate([[0.0], recall])
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * best))
