"""The choice of the images to show, a function of the results."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from borrow_det.evaluation.outcomes import DETECTION_KINDS, SIZES, Outcomes


class Chosen(NamedTuple):
    """An image, by its index in the split, and the reason to show it."""

    image: int
    reason: str


class Places(NamedTuple):
    """The images of a split's detections and objects.

    Attributes:
      detections: index of the image of each detection, int [D].
      objects: index of the image of each object, int [G].
      images: number of images.
    """

    detections: np.ndarray
    objects: np.ndarray
    images: int

    @classmethod
    def of(
        cls, truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]
    ) -> "Places":
        """Returns the places of the records of a split.

        Args:
          truth: COCO dictionary; its images are in the order of the split.
          detections: COCO results list.
        """
        index = {image["id"]: i for i, image in enumerate(truth["images"])}
        return cls(
            np.array([index[d["image_id"]] for d in detections], int),
            np.array([index[a["image_id"]] for a in truth["annotations"]], int),
            len(index),
        )

    def count_detections(self, mask: np.ndarray) -> np.ndarray:
        """Counts the detections of a mask by image: int [images]."""
        return np.bincount(self.detections[mask], minlength=self.images)

    def count_objects(self, mask: np.ndarray) -> np.ndarray:
        """Counts the objects of a mask by image: int [images]."""
        return np.bincount(self.objects[mask], minlength=self.images)


def choose(
    found: Outcomes,
    places: Places,
    class_names: Sequence[str],
    threshold: int,
    limit: int,
) -> list[Chosen]:
    """Chooses images to show, as a function of the results alone.

    Errors are false positives and objects that are not found. The groups are
    one quarter with the most errors; one quarter with the most small objects that are
    not found or, if there are too few, the most small objects; one eighth with the
    fewest errors, then the most hits; and one eighth around the median number of
    errors. Each has at least one image. The rest are the images with the most errors
    of each kind and class in turn, and then those with the most errors.

    Args:
      found: outcomes of the split.
      places: images of its detections and objects.
      class_names: name of each label.
      threshold: threshold, as an index.
      limit: largest number of images.

    Returns:
      The images, group by group; all images if there are at most `limit`.
    """
    detected, lost = found.detected(threshold), found.lost(threshold)
    hits = places.count_detections(detected & (found.kind == 0))
    errors = places.count_detections(detected & (found.kind > 0))
    errors += places.count_objects(lost)
    is_small = found.object_counts & (found.object_size == SIZES.index("small"))
    small = places.count_objects(is_small)
    lost_small = places.count_objects(lost & is_small)
    chosen: dict[int, str] = {}

    def take(ranked: np.ndarray, count: int, reason: str) -> None:
        new = [i for i in ranked.tolist() if i not in chosen]
        chosen.update(dict.fromkeys(new[: min(count, limit - len(chosen))], reason))

    quarter, eighth = max(1, limit // 4), max(1, limit // 8)
    take(_most(errors), quarter, "most errors")
    before = len(chosen)
    take(_most(lost_small), quarter, "most small objects not found")
    take(_most(small), before + quarter - len(chosen), "most small objects")
    best = [i for i in _by(errors, -hits) if hits[i]]
    take(np.array(best, int), eighth, "fewest errors")
    middle = np.median(errors) if errors.size else 0
    around = _by(np.abs(errors - middle))
    take(around, eighth, "around the median number of errors")
    for reason, counts in _kinds_and_classes(found, places, class_names, threshold):
        if len(chosen) >= limit:
            break
        take(_most(counts), 1, reason)
    take(_by(-errors), limit, "one of the others with the most errors")
    return [Chosen(i, reason) for i, reason in chosen.items()]


def _by(*keys: np.ndarray) -> np.ndarray:
    """Returns the order by rising keys, the first key first; ties keep their order."""
    return np.lexsort(keys[::-1])


def _most(counts: np.ndarray) -> np.ndarray:
    """Returns the images with a count, by falling count."""
    return _by(-counts)[: np.count_nonzero(counts)]


def _kinds_and_classes(
    found: Outcomes, places: Places, class_names: Sequence[str], threshold: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (reason, counts by image) of errors by class and kind.

    Classes with many objects come first.
    """
    detected, lost = found.detected(threshold), found.lost(threshold)
    labels = found.object_label[found.object_counts]
    for label in _by(-np.bincount(labels, minlength=len(class_names))).tolist():
        name, own = class_names[label], detected & (found.label == label)
        for kind, kind_name in enumerate(DETECTION_KINDS[1:], start=1):
            counts = places.count_detections(own & (found.kind == kind))
            yield f"most errors of {name}, {kind_name}", counts
        counts = places.count_objects(lost & (found.object_label == label))
        yield f"most objects of {name} not found", counts
