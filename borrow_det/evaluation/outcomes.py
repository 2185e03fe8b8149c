"""The outcome of every detection and object of a split, and counts by threshold.

Pairs of detections and objects at a threshold are those of the better-scored detections
alone (evaluation/pairing.py takes detections by falling score). One pairing therefore
holds for all thresholds, and counts are sums of histograms over the score.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from borrow_det.evaluation import average_precision, pairing
from borrow_det.evaluation.errors import FALSE_POSITIVES, ErrorKinds
from borrow_det.evaluation.pairing import Pairs

_STEPS = 100  # Thresholds between 0 and 1.
SIZES = tuple(average_precision.AREA_RANGES)
HIT = "hit"
DETECTION_KINDS = (HIT, *FALSE_POSITIVES)


class Outcomes(NamedTuple):
    """The outcome of D detections and G objects.

    A size is an index in SIZES: that of the object, or of the box of a detection
    without an object. A threshold is an index in `thresholds`.

    Attributes:
      label: class of each detection, int [D].
      size: size of each detection, int [D].
      kind: index in DETECTION_KINDS, -1 for detections that do not count; int [D].
      highest: highest threshold that the score reaches, int [D].
      object_label: class of each object, int [G].
      object_size: size of each object, int [G].
      object_counts: false for crowds and difficult objects, bool [G].
      found: highest threshold at which the object is found, -1 for none; int [G].
      covered: highest threshold at which a false positive of classification or
        localization would find the object if it were corrected, -1 for none; int [G].
        An object that is neither found nor covered is missed.
    """

    label: np.ndarray
    size: np.ndarray
    kind: np.ndarray
    highest: np.ndarray
    object_label: np.ndarray
    object_size: np.ndarray
    object_counts: np.ndarray
    found: np.ndarray
    covered: np.ndarray

    def detected(self, threshold: int) -> np.ndarray:
        """Returns the hits and false positives at a threshold, bool [D]."""
        return (self.kind >= 0) & (self.highest >= threshold)

    def lost(self, threshold: int) -> np.ndarray:
        """Returns the objects that are not found at a threshold, bool [G]."""
        return self.object_counts & (self.found < threshold)


def thresholds(start: float) -> np.ndarray:
    """Returns 0, 0.01 ... 1, and `start` among them: float64, rising."""
    return np.union1d(np.arange(_STEPS + 1) / _STEPS, start)


def outcomes(
    truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    pairs: Pairs,
    kinds: ErrorKinds,
    thresholds: np.ndarray,
) -> Outcomes:
    """Joins the pairs and the kinds of errors of a split.

    Args:
      truth: COCO dictionary with areas in the pixels of evaluation.area_pixels.
      detections: COCO results list, likewise.
      pairs: pairs of both.
      kinds: kinds of the errors of both.
      thresholds: minimum scores, rising.
    """
    annotations = truth["annotations"]
    object_size = _sizes(pairing.object_areas(annotations))
    size = _sizes(pairing.box_areas(detections))
    has_object = pairs.object >= 0
    size[has_object] = object_size[pairs.object[has_object]]
    kind = np.full(len(detections), -1)
    counts = pairs.counted & ~pairs.ignored
    kind[pairs.hit] = DETECTION_KINDS.index(HIT)
    for i in np.flatnonzero(counts & ~has_object):
        kind[i] = DETECTION_KINDS.index(kinds.detection[i])
    highest = highest_threshold([d["score"] for d in detections], thresholds)
    found = np.full(len(annotations), -1)
    is_found = pairs.detection >= 0
    found[is_found] = highest[pairs.detection[is_found]]
    covered = np.full(len(annotations), -1)
    covers = kinds.target >= 0
    np.maximum.at(covered, kinds.target[covers], highest[covers])
    return Outcomes(
        label=pairing.label_numbers(truth, detections),
        size=size,
        kind=kind,
        highest=highest,
        object_label=pairing.label_numbers(truth, annotations),
        object_size=object_size,
        object_counts=pairing.counted_objects(annotations),
        found=found,
        covered=covered,
    )


def highest_threshold(scores: Sequence[float], thresholds: np.ndarray) -> np.ndarray:
    """Returns the index of the highest threshold that each score reaches: int [n]."""
    return np.searchsorted(thresholds, np.asarray(scores, float), side="right") - 1


def table(found: Outcomes, num_classes: int) -> dict[str, Any]:
    """Tabulates the counts of a split for all thresholds.

    Returns:
      `objects`: number of objects to find, by class and size. `detections` and
      `reached`: rows [class, size, kind, thresholds, counts], where `counts` detections
      or objects reach these thresholds at most; the number at a threshold is the sum of
      the counts from there on. `detections` has those that count. `reached` has the
      objects that are found or covered, with kind 0. Objects less hits are not found,
      objects less reached ones are missed.
    """
    objects = np.zeros((num_classes, len(SIZES)), int)
    counts = found.object_counts
    np.add.at(objects, (found.object_label[counts], found.object_size[counts]), 1)
    reach = np.maximum(found.found, found.covered)
    reached = counts & (reach >= 0)
    counted = found.kind >= 0
    return {
        "objects": objects.tolist(),
        "detections": _histograms(
            *(found.label[counted], found.size[counted], found.kind[counted]),
            found.highest[counted],
        ),
        "reached": _histograms(
            *(found.object_label[reached], found.object_size[reached]),
            *(np.zeros(np.count_nonzero(reached), int), reach[reached]),
        ),
    }


def _histograms(
    label: np.ndarray, size: np.ndarray, kind: np.ndarray, highest: np.ndarray
) -> list[list[Any]]:
    """Returns [label, size, kind, thresholds, counts] of each combination."""
    columns = np.stack([label, size, kind, highest], axis=1)
    cells, numbers = np.unique(columns, axis=0, return_counts=True)
    rows: dict[tuple[int, ...], tuple[list[int], list[int]]] = {}
    for (*cell, threshold), count in zip(cells.tolist(), numbers.tolist(), strict=True):
        thresholds, counts = rows.setdefault(tuple(cell), ([], []))
        thresholds.append(threshold)
        counts.append(count)
    return [[*cell, *lists] for cell, lists in rows.items()]


def _sizes(areas: np.ndarray) -> np.ndarray:
    """Returns the index in SIZES of each area: int [n]."""
    limits = [largest for _, largest in average_precision.AREA_RANGES.values()]
    return np.searchsorted(limits[:-1], areas, side="left")
