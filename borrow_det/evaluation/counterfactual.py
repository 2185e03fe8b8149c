"""Metrics of counterfactual splits, in which only the large objects are changed.

A counterfactual split shows the scenes of another, factual split: the image ids are the
same, and the small objects are the same to the pixel. The larger instances are replaced
by others, of other classes, or removed. In scale_pairs, where small objects do not show
their class, their labels change with the larger instances. A detector that classifies a
small object from its own pixels gives the same answer in both splits; a detector that
borrows changes its answer with the large objects.

The answer for a small object (COCO's small area range, neither crowd nor difficult) is
the class of the highest-scoring detection, of any class, with IoU >= 0.5. Without such
a detection, the object has no answer.

Metrics of each split:
  small_recall: share of the small objects that have an answer.
  small_accuracy: share of the small objects whose answer is correct; no answer counts
    as incorrect.
Metrics of a counterfactual split:
  unchanged: share of the small objects with the same answer here and in the factual
    split, among those that have an answer in both.
  consistency: share of the small objects whose answer is correct in both splits, among
    those whose label differs; absent if no label differs.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from borrow_det.evaluation import average_precision
from borrow_det.evaluation.coco_values import Id

MIN_IOU = 0.5


class Answer(NamedTuple):
    """Category of a small object, and the category of the detection on it."""

    truth: int  # Category id.
    found: int | None  # Category id; None without an answer.


# The key is the image id and the box, which an object keeps in all splits.
Answers = dict[tuple, Answer]


def answers(
    ground_truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]
) -> Answers:
    """Returns the answer for each small object of a split.

    Args:
      ground_truth: COCO dictionary (see average_precision.py).
      detections: COCO results list.
    """
    objects = average_precision.grouped(ground_truth["annotations"], "image_id")
    detected = average_precision.grouped(detections, "image_id")
    found = {}
    for image_id, annotations in objects.items():
        small = [
            annotation
            for annotation in annotations
            if average_precision.is_small(average_precision.object_area(annotation))
            and not average_precision.is_ignored(annotation)
        ]
        ranked = sorted(detected.get(image_id, ()), key=lambda d: -d["score"])
        overlaps = average_precision.pairwise_iou(ranked, small)
        for annotation, overlap in zip(small, overlaps.T, strict=True):
            hits = np.flatnonzero(overlap >= MIN_IOU)
            answer = ranked[hits[0]]["category_id"] if len(hits) else None
            found[key(annotation)] = Answer(annotation["category_id"], answer)
    return found


def key(annotation: Mapping[str, Any]) -> tuple:
    """Returns the key of an object in `Answers`."""
    return annotation["image_id"], *annotation["bbox"]


def metrics(
    splits: Mapping[str, Answers], compared: Iterable[tuple[str, str]]
) -> dict[str, float]:
    """Computes the metrics of the module docstring, by `SPLIT/NAME`.

    Args:
      splits: the answers of each split.
      compared: pairs (factual split, its counterfactual).

    Returns:
      Metrics by name, nan without such an object; {} without splits.
    """
    found = outcomes(splits, compared)
    return {name: share(flags) for name, flags in found.items()}


def share(flags: Sequence[tuple[Id, bool]]) -> float:
    """Returns the share of true outcomes of (image id, outcome), nan without any."""
    return sum(flag for _, flag in flags) / len(flags) if flags else math.nan


def outcomes(
    splits: Mapping[str, Answers], compared: Iterable[tuple[str, str]]
) -> dict[str, list[tuple[Id, bool]]]:
    """Returns (image id, outcome) of the objects that a metric counts, by `SPLIT/NAME`.

    A metric is the share of true outcomes. Args: see `metrics`.
    """
    figures = {}
    for split, found in splits.items():
        figures[f"{split}/small_accuracy"] = [
            (key[0], a.found == a.truth) for key, a in found.items()
        ]
        figures[f"{split}/small_recall"] = [
            (key[0], a.found is not None) for key, a in found.items()
        ]
    for factual, split in compared:
        pairs = [
            (key[0], a, b)
            for key, a in splits[factual].items()
            if (b := splits[split].get(key))
        ]
        figures[f"{split}/unchanged"] = [
            (image, a.found == b.found)
            for image, a, b in pairs
            if None not in (a.found, b.found)
        ]
        changed = [(image, a, b) for image, a, b in pairs if a.truth != b.truth]
        if changed:
            figures[f"{split}/consistency"] = [
                (image, a.found == a.truth and b.found == b.truth)
                for image, a, b in changed
            ]
    return figures
