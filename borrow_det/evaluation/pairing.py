"""Pairs of detections and objects by COCO's rule at one IoU threshold.

Curves, operating points, the confusion matrix, kinds of errors and pictures all use
these pairs, so that they agree with COCO's metrics (average_precision.py, which
describes the records).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from borrow_det.evaluation import average_precision

# Area ranges by size, as in COCO's metrics.
SIZES = {"all": average_precision.ALL_AREAS, **average_precision.AREA_RANGES}

# The recalls of COCO's interpolated precision.
RECALLS = np.linspace(0.0, 1.0, 101)


class Pairs(NamedTuple):
    """Detections (D) and the objects (G) that they take.

    Attributes:
      order: int [N], the counted detections by falling score. Equal scores are in the
        order of the image ids and then of the records.
      object: int [D], the object that a detection takes, or -1.
      ignored: bool [D], true for detections that are neither true nor false positives:
        they take an ignored object, or take none and are outside the area range.
      counted: bool [D], true within the limit of detections of an image and class.
        The other detections take no object.
      detection: int [G], the detection that takes an object, or -1; the best one of
        the detections that take the same crowd.
      iou: float [D], IoU with the object that a detection takes, or 0. For a crowd,
        the intersection over the area of the detection.
    """

    order: np.ndarray
    object: np.ndarray
    ignored: np.ndarray
    counted: np.ndarray
    detection: np.ndarray
    iou: np.ndarray

    @property
    def hit(self) -> np.ndarray:
        """True positives among the detections, bool [D]."""
        return (self.object >= 0) & ~self.ignored

    def reaching(self, kept: np.ndarray) -> "Pairs":
        """Returns the pairs of the detections that reach a score, `kept`, bool [D].

        Detections with lower scores do not change what the others take.
        """
        by_kept = np.append(kept, False)[self.detection]  # Index -1 is no detection.
        return Pairs(
            order=self.order[kept[self.order]],
            object=np.where(kept, self.object, -1),
            ignored=self.ignored & kept,
            counted=self.counted & kept,
            detection=np.where(by_kept, self.detection, -1),
            iou=np.where(kept, self.iou, 0.0),
        )


def pair(
    truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    iou: float = 0.5,
    max_detections: int = 100,
    area_range: tuple[float, float] = average_precision.ALL_AREAS,
) -> Pairs:
    """Pairs detections with objects of their class.

    In each image and class, detections take objects by falling score. Each takes the
    free object of the highest IoU, an ignored one only if no other reaches the
    threshold. Many detections may take the same crowd. Ignored are crowds, difficult
    objects, and objects outside the area range.

    Args:
      truth: COCO dictionary (see average_precision.py).
      detections: COCO results list; those of classes that `truth` lacks do not count.
      iou: least IoU of a pair.
      max_detections: number of detections of an image and class that count.
      area_range: (smallest, largest) area of an object, in square pixels, inclusive.

    Returns:
      The pairs, equal to those behind `average_precision.coco_metrics`.
    """
    counts = counted_objects(truth["annotations"], area_range)
    return Pairing(truth, detections, max_detections, iou).pair(iou, counts, area_range)


class Pairing:
    """Pairs the same detections and objects by several IoUs and sets of objects."""

    def __init__(
        self,
        truth: Mapping[str, Any],
        detections: Sequence[Mapping[str, Any]],
        max_detections: int = 100,
        least_iou: float = 0.5,
    ):
        """Finds the objects that each detection may take.

        Args:
          truth: COCO dictionary (see average_precision.py).
          detections: COCO results list.
          max_detections: number of detections of an image and class that count.
          least_iou: the lowest IoU of `pair`.
        """
        annotations = truth["annotations"]
        group = _group_numbers(truth, detections)
        self._order, self._counted = _counted(truth, detections, group, max_detections)
        self._areas = box_areas(detections)
        self._crowd = [bool(a.get("iscrowd", 0)) for a in annotations]
        # (detection, [(object, IoU), ...]), by falling score within image and class.
        self._candidates: list[tuple[int, list[tuple[int, float]]]] = []
        object_group = _group_numbers(truth, annotations)
        objects = grouped_by(object_group, np.arange(len(annotations)))
        with_objects = self._order[np.isin(group[self._order], object_group)]
        for key, found in grouped_by(group, with_objects).items():
            members = objects[key]
            values = overlaps(
                [detections[d] for d in found], [annotations[g] for g in members]
            )
            near = values >= _allowing(least_iou)
            for row in np.flatnonzero(near.any(axis=1)):
                columns = np.flatnonzero(near[row])
                taken = zip(
                    members[columns].tolist(),
                    values[row, columns].tolist(),
                    strict=True,
                )
                self._candidates.append((int(found[row]), [*taken]))

    def pair(
        self, iou: float, counts: np.ndarray, area_range: tuple[float, float]
    ) -> Pairs:
        """Pairs detections with objects of their class; see the function `pair`.

        Args:
          iou: least IoU of a pair.
          counts: bool [G], the objects to find; the others are ignored.
          area_range: smallest and largest area, in square pixels, of a detection
            without an object that is a false positive.
        """
        takes = np.full(len(self._areas), -1)
        overlap = np.zeros(len(self._areas))
        taken_by = [-1] * len(self._crowd)
        is_counted, crowd = counts.tolist(), self._crowd
        least = _allowing(iou)
        for d, candidates in self._candidates:
            best, most = -1, least
            for wanted in (True, False):  # An ignored object only without another.
                for g, value in candidates:
                    free = taken_by[g] < 0 or crowd[g]
                    # Of equal IoUs, COCO takes the last.
                    if is_counted[g] is wanted and value >= most and free:
                        best, most = g, value
                if best >= 0:
                    takes[d], overlap[d] = best, most
                    if taken_by[best] < 0:
                        taken_by[best] = d
                    break
        ignored = (takes >= 0) & ~counts[takes] if len(counts) else takes >= 0
        outside = ~within(self._areas, area_range)
        return Pairs(
            order=self._order,
            object=takes,
            ignored=ignored | ((takes < 0) & outside),
            counted=self._counted,
            detection=np.array(taken_by, int),
            iou=overlap,
        )


def _allowing(iou: float) -> float:
    """Returns a threshold with COCO's allowance for rounding."""
    return min(iou, 1 - 1e-10)


def counted_objects(
    annotations: Sequence[Mapping[str, Any]],
    area_range: tuple[float, float] = average_precision.ALL_AREAS,
) -> np.ndarray:
    """Returns the objects to find in an area range: not ignored, bool [G]."""
    ignored = np.array([average_precision.is_ignored(a) for a in annotations], bool)
    return within(object_areas(annotations), area_range) & ~ignored


def overlaps(
    detections: Sequence[Mapping[str, Any]], objects: Sequence[Mapping[str, Any]]
) -> np.ndarray:
    """Computes IoUs as COCO does, float64 [D, G].

    For a crowd it is the intersection over the area of the detection. Rounding equals
    that of pycocotools' `bbIou`, so that a box at the threshold stays on its side.
    """
    a, b = _boxes(detections)[:, None], _boxes(objects)[None]
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    shared = np.maximum(high - low, 0).prod(axis=-1)
    own, other = a[..., 2:].prod(axis=-1), b[..., 2:].prod(axis=-1)
    crowd = np.array([bool(o.get("iscrowd", 0)) for o in objects], bool)
    union = np.where(crowd, own, own + other - shared)
    return shared / np.where(union > 0, union, 1.0)


def interpolated_ap(hits: np.ndarray, objects: int) -> float:
    """Computes COCO's AP of one class: mean precision at 101 recalls.

    Args:
      hits: bool [N], true positives among the detections that are not ignored, by
        falling score.
      objects: number of objects to find.

    Returns:
      AP in [0, 1]; nan without objects.
    """
    if not objects:
        return float("nan")
    if not len(hits):
        return 0.0
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    index = np.searchsorted(found / objects, RECALLS, side="left")
    return float(np.append(best, 0.0)[index].mean())


def grouped_by(values: np.ndarray, indices: np.ndarray) -> dict[int, np.ndarray]:
    """Groups indices into an array of integers by its values, in their order."""
    order = np.argsort(values[indices], kind="stable")
    keys, starts = np.unique(values[indices][order], return_index=True)
    groups = np.split(indices[order], starts[1:])
    return {int(key): groups[k] for k, key in enumerate(keys)}


def image_numbers(
    truth: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> np.ndarray:
    """Numbers the image of each record in the order of the image ids, int [N]."""
    rank = average_precision.image_ranks(truth)
    return np.array([rank[record["image_id"]] for record in records], int)


def label_numbers(
    truth: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> np.ndarray:
    """Numbers the class of each record; -1 for classes that `truth` lacks, int [N]."""
    label = {category["id"]: k for k, category in enumerate(truth["categories"])}
    return np.array([label.get(record["category_id"], -1) for record in records], int)


def _group_numbers(
    truth: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> np.ndarray:
    """Numbers the image and class of each record; -1 for other classes, int [N]."""
    labels = label_numbers(truth, records)
    numbers = image_numbers(truth, records) * len(truth["categories"]) + labels
    return np.where(labels < 0, -1, numbers)


def _counted(
    truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    group: np.ndarray,
    max_detections: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns `order` and `counted` of the pairs; `group` is `_group_numbers`."""
    scores = np.array([d["score"] for d in detections], float)
    # np.lexsort is stable, and sorts by its last key first.
    order = np.lexsort((image_numbers(truth, detections), -scores))
    by_group = order[np.argsort(group[order], kind="stable")]
    _, starts, sizes = np.unique(group[by_group], return_index=True, return_counts=True)
    place = np.arange(len(detections)) - np.repeat(starts, sizes)
    counted = np.zeros(len(detections), bool)
    counted[by_group] = (place < max_detections) & (group[by_group] >= 0)
    return order[counted[order]], counted


def _boxes(records: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return np.array([record["bbox"] for record in records], float).reshape(-1, 4)


def object_areas(annotations: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Returns the sizes of objects in square pixels, float64 [G]."""
    return np.array([average_precision.object_area(a) for a in annotations], float)


def box_areas(detections: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Returns the sizes of the boxes of detections in square pixels, float64 [D]."""
    areas = [
        d["box_area"] if "box_area" in d else d["bbox"][2] * d["bbox"][3]
        for d in detections
    ]
    return np.array(areas, float)


def within(areas: np.ndarray, area_range: tuple[float, float]) -> np.ndarray:
    """Returns true for areas in a range, both ends included."""
    return (area_range[0] <= areas) & (areas <= area_range[1])
