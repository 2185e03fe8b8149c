"""Kinds of errors, and the AP50 that each kind costs.

A false positive is of the first kind that fits. IoU is with the objects of its image
that count: crowds and difficult objects do not.
  localization: its highest IoU with an object of its class is at least 0.1 and less
    than 0.5.
  classification: its IoU with an object of another class is at least 0.5.
  duplicate: its IoU with an object of its class is at least 0.5. A detection with a
    higher score took the object.
  both: its IoU with an object of another class is more than 0.1.
  background: all others.
A correction turns a false positive of localization or classification into a true
positive of the object that gave it its kind. An object that no detection takes is
corrected by the best such false positive of either kind, the one with the highest
score, or is "missed" if there is none. Detections that take an ignored object are not
errors.

The AP50 that a kind costs is AP50 after a correction of this kind alone, minus AP50:
  localization, classification: the false positives that correct an object become true
    positives of its class, with their scores; the others are removed.
  duplicate, both, background: the false positives are removed.
  missed: the objects do not count. A class without any other object is left out.
The costs of all kinds do not add up to 1 - AP50. The cost of a size range is the same
difference of AP50_small, AP50_medium or AP50_large.

Source: Bolya et al., TIDE: A General Toolbox for Identifying Object Detection Errors
(2020), and tidecv 1.0.1, which has the order of the kinds and one correction per
object. The counts and costs equal those of tidecv except where it departs from COCO's
metrics or depends on rounding:
  - Detections that take a crowd are errors in tidecv, and can correct an object. Its
    crowds are taken above an IoU of 0.5, COCO's at 0.5 or more.
  - An IoU of exactly 0.5 with a taken object of the class is localization in tidecv.
  - Of two objects with equal IoU, COCO takes the last, tidecv the first. After a
    correction tidecv orders equal scores anew, false positives first.
  - The limit of detections is by image and class in COCO, by image in tidecv.
  - Classes that have detections but no object have an AP of 0 in tidecv.
  - tidecv has no rule for difficult objects; as crowds, they could be taken many times.
  - Sizes in tidecv restrict the corrections, and not AP50.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from borrow_det.evaluation import lenders, pairing

FALSE_POSITIVES = (
    "classification",
    "localization",
    "both",
    "duplicate",
    "background",
)
MISSED = "missed"
KINDS = (*FALSE_POSITIVES, MISSED)
# IoU of a pair, and IoU below which a detection has nothing to do with an object.
IOU = 0.5
BACKGROUND_IOU = 0.1

_CORRECTING = ("classification", "localization")


class ErrorKinds(NamedTuple):
    """Kinds of errors of detections (D) and objects (G).

    Attributes:
      detection: [D], one of `FALSE_POSITIVES`; "" for other detections.
      object: [G], "missed" or "".
      target: int [D], the object that a false positive of localization or
        classification would find if it were corrected, found or not; -1 for the others.
      correction: int [G], the false positive that would find the object if it were
        corrected; -1 for objects that are found, missed or ignored.
    """

    detection: list[str]
    object: list[str]
    target: np.ndarray
    correction: np.ndarray


def kinds(
    truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    pairs: pairing.Pairs,
) -> ErrorKinds:
    """Assigns each false positive and each miss to a kind (see the module docstring).

    Args:
      truth: COCO dictionary (see average_precision.py).
      detections: COCO results list.
      pairs: `pairing.pair` of these at an IoU of 0.5, for all areas.
    """
    annotations = truth["annotations"]
    counts = pairing.counted_objects(annotations)
    false = pairs.counted & (pairs.object < 0) & ~pairs.ignored
    found = np.full(len(detections), "", "<U14")
    target = np.full(len(detections), -1)
    images = pairing.image_numbers(truth, detections)
    places = pairing.image_numbers(truth, annotations)
    objects = pairing.grouped_by(places, np.flatnonzero(counts))
    for image, members in pairing.grouped_by(images, np.flatnonzero(false)).items():
        others = objects.get(image, np.array([], int))
        found[members], best = _image_kinds(
            [detections[d] for d in members], [annotations[g] for g in others]
        )
        target[members[best >= 0]] = others[best[best >= 0]]
    open_objects = counts & (pairs.detection < 0)
    correction = _corrections(pairs.order, found, target, open_objects)
    missed = np.where(open_objects & (correction < 0), MISSED, "")
    return ErrorKinds(found.tolist(), missed.tolist(), target, correction)


def _image_kinds(
    found: Sequence[Mapping[str, Any]], objects: Sequence[Mapping[str, Any]]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the kinds of an image's D false positives, and what each overlaps most.

    The second is an index into `objects`, or -1 without a correction, int [D].
    """
    if not objects:
        return np.full(len(found), "background"), np.full(len(found), -1)
    iou = pairing.overlaps(found, objects)
    own = [[d["category_id"] == o["category_id"] for o in objects] for d in found]
    in_class, in_others = np.where(own, iou, 0.0), np.where(own, 0.0, iou)
    same, other = in_class.max(axis=1), in_others.max(axis=1)
    conditions = {
        "localization": (same >= BACKGROUND_IOU) & (same < IOU),
        "classification": other >= IOU,
        "duplicate": same >= IOU,
        "both": other > BACKGROUND_IOU,
    }
    kind = np.select(list(conditions.values()), list(conditions), "background")
    targets = [in_class.argmax(axis=1), in_others.argmax(axis=1)]
    wanted = [kind == "localization", kind == "classification"]
    return kind, np.select(wanted, targets, -1)


def _corrections(
    order: np.ndarray, found: np.ndarray, target: np.ndarray, open_objects: np.ndarray
) -> np.ndarray:
    """Returns the best false positive on each open object, or -1: int [G].

    Args:
      order: int [N], detections by falling score.
      found: [D], kinds of the detections.
      target: int [D], the object that a detection would find, or -1.
      open_objects: bool [G], objects to find that no detection takes.
    """
    correction = np.full(len(open_objects), -1)
    usable = order[np.isin(found[order], _CORRECTING)]
    usable = usable[open_objects[target[usable]]]
    # The first of each target is the best.
    objects, first = np.unique(target[usable], return_index=True)
    correction[objects] = usable[first]
    return correction


def analyze(
    truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    pairs: Mapping[str, pairing.Pairs],
    scale: float,
    score: float | None,
) -> dict[str, Any]:
    """Returns the counts and costs of errors, for JSON.

    Args:
      truth: COCO dictionary (see average_precision.py).
      detections: COCO results list.
      pairs: "all", "small", "medium" and "large" to `pairing.pair` of these at an IoU
        of 0.5 in the area range.
      scale: least ratio of a lender's side to the small object's side.
      score: least score of the detections of `at_score`; None for all detections.

    Returns:
      kinds: names of the kinds.
      counts: kind to size to number of errors. The size is that of the missed object or
        of the false positive's box.
      AP50_cost: kind to size to cost (see the module docstring); None if undefined.
      missed_small: number of missed small objects "with_lender" and "without_lender".
      small_objects: the number of "objects" of these groups, and of those that are
        "found", that a correction of "classification" or "localization" would find,
        and that are "missed".
      at_score: the `score`, and `counts` and `small_objects` of detections that reach
        it.
    """
    found = kinds(truth, detections, pairs["all"])
    annotations = truth["annotations"]
    groups = lenders.with_and_without(truth, scale)
    small = _small_objects(groups, found, pairs["all"])
    scores = np.array([d["score"] for d in detections], float)
    kept = pairs["all"].reaching(scores >= (-math.inf if score is None else score))
    found_kept = kinds(truth, detections, kept)
    return {
        "kinds": list(KINDS),
        "counts": _counts(annotations, detections, found),
        "AP50_cost": _costs(truth, detections, found, pairs),
        "missed_small": {name: group[MISSED] for name, group in small.items()},
        "small_objects": small,
        "at_score": {
            "score": score,
            "counts": _counts(annotations, detections, found_kept),
            "small_objects": _small_objects(groups, found_kept, kept),
        },
    }


def _counts(
    annotations: Sequence[Mapping[str, Any]],
    detections: Sequence[Mapping[str, Any]],
    found: ErrorKinds,
) -> dict[str, dict[str, int]]:
    """Returns the number of errors by kind and size."""
    kind, missed = np.array(found.detection), np.array(found.object) == MISSED
    areas = pairing.box_areas(detections)
    errors = {name: areas[kind == name] for name in FALSE_POSITIVES}
    errors[MISSED] = pairing.object_areas(annotations)[missed]
    return {
        name: {
            size: int(pairing.within(areas, area_range).sum())
            for size, area_range in pairing.SIZES.items()
        }
        for name, areas in errors.items()
    }


def _costs(
    truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    found: ErrorKinds,
    pairs: Mapping[str, pairing.Pairs],
) -> dict[str, dict[str, float | None]]:
    """Returns the AP50 that each kind costs, by size."""
    annotations = truth["annotations"]
    labels = pairing.label_numbers(truth, detections)
    object_labels = pairing.label_numbers(truth, annotations)
    costs: dict[str, dict[str, float | None]] = {name: {} for name in KINDS}
    for size, area_range in pairing.SIZES.items():
        counts = pairing.counted_objects(annotations, area_range)
        by_kind = _range_costs(found, pairs[size], counts, labels, object_labels)
        for name, cost in by_kind.items():
            costs[name][size] = None if math.isnan(cost) else cost
    return costs


def _range_costs(
    found: ErrorKinds,
    pairs: pairing.Pairs,
    counts: np.ndarray,
    labels: np.ndarray,
    object_labels: np.ndarray,
) -> dict[str, float]:
    """Returns the AP50 that each kind costs in an area range; nan if undefined.

    Args:
      found: kinds of errors, for all areas.
      pairs: pairs of the area range.
      counts: bool [G], the objects of the range that count.
      labels: int [D], class of each detection.
      object_labels: int [G], class of each object.
    """
    kind, missed = np.array(found.detection), np.array(found.object) == MISSED
    listed = pairs.counted & ~pairs.ignored
    open_objects = counts & (pairs.detection < 0)

    def ap50(
        listed: np.ndarray, hit: np.ndarray, labels: np.ndarray, counts: np.ndarray
    ) -> float:
        ranked = pairs.order[listed[pairs.order]]
        return _mean_ap(hit[ranked], labels[ranked], object_labels[counts])

    before = ap50(listed, pairs.hit, labels, counts)
    costs = {}
    for name in FALSE_POSITIVES:
        objects = np.flatnonzero(open_objects & (found.correction >= 0))
        corrected = found.correction[objects]
        this_kind = kind[corrected] == name
        hit, new_labels = pairs.hit.copy(), labels.copy()
        hit[corrected[this_kind]] = True
        new_labels[corrected[this_kind]] = object_labels[objects[this_kind]]
        remaining = hit | (listed & (kind != name))
        costs[name] = ap50(remaining, hit, new_labels, counts) - before
    after = ap50(listed, pairs.hit, labels, counts & ~(open_objects & missed))
    return {**costs, MISSED: after - before}


def _mean_ap(hits: np.ndarray, labels: np.ndarray, objects: np.ndarray) -> float:
    """Computes the mean AP of the classes that have an object; nan without one.

    Args:
      hits: bool [N], true positives among the detections, by falling score.
      labels: int [N], class of each detection.
      objects: int [M], class of each object to find.
    """
    classes, numbers = np.unique(objects, return_counts=True)
    by_class = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_class], classes, side="left")
    ends = np.searchsorted(labels[by_class], classes, side="right")
    values = [
        pairing.interpolated_ap(hits[by_class[start:end]], int(number))
        for start, end, number in zip(starts, ends, numbers, strict=True)
    ]
    return float(np.mean(values)) if values else math.nan


def _small_objects(
    groups: Mapping[str, np.ndarray], found: ErrorKinds, pairs: pairing.Pairs
) -> dict[str, dict[str, int]]:
    """Counts the outcomes of groups of small objects, bool [G] by name."""
    kind, correction = np.array([*found.detection, ""]), found.correction
    outcomes = {
        "objects": np.full(len(found.object), True),
        "found": pairs.detection >= 0,
        # Index -1, no correction, is the last kind, which is empty.
        **{name: kind[correction] == name for name in _CORRECTING},
        MISSED: np.array(found.object) == MISSED,
    }
    return {
        group: {name: int(np.sum(own & mask)) for name, mask in outcomes.items()}
        for group, own in groups.items()
    }
