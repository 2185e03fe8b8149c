"""Do the answers for small objects follow, when only the large ones are changed?

A counterfactual split shows the scenes of another, the factual one, with the same image
ids and the same small objects to the pixel, but with the larger instances redrawn as
other classes (the small objects' labels follow), or removed. Whoever tells a small
object by itself answers the same on both; whoever borrows follows.

The answer for a small object (of COCO's small area range, neither crowd nor difficult)
is the class of the detection with the best score, of whatever class, that overlaps it
by IoU >= 0.5; where there is none, it has no answer.

Of each split:
  small_found: the share of small objects that have an answer.
  small_accuracy: the share whose answer is right; none is wrong.
Of a counterfactual split:
  stayed: the share of small objects whose answer is the same in it and in its factual
    one, of those that are answered in both.
  followed: the share whose answer is right in both, of all whose label differs; only
    where labels differ at all.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from borrow_det.evaluation import average_precision

MIN_IOU = 0.5


class Answer(NamedTuple):
    """What is said of a small object."""

    truth: int  # Category id.
    found: int | None  # Category id.


# By image id and box: what a small object has in common with itself in other splits.
Answers = dict[tuple, Answer]


def answers(
    ground_truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]
) -> Answers:
    """What COCO-format detections say of each small object of a split."""
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
            said = ranked[hits[0]]["category_id"] if len(hits) else None
            key = (image_id, *annotation["bbox"])
            found[key] = Answer(annotation["category_id"], said)
    return found


def metrics(
    splits: Mapping[str, Answers], compared: Iterable[tuple[str, str]]
) -> dict[str, float]:
    """The figures of the module's docstring, by `SPLIT/NAME`.

    Args:
      splits: the answers on each split.
      compared: (factual split, its counterfactual) each.

    Returns:
      nan where there is no such object; {} of no splits.
    """
    figures = {}
    for split, found in splits.items():
        figures[f"{split}/small_accuracy"] = _share(
            a.found == a.truth for a in found.values()
        )
        figures[f"{split}/small_found"] = _share(
            a.found is not None for a in found.values()
        )
    for factual, split in compared:
        pairs = [
            (a, b)
            for key, a in splits[factual].items()
            if (b := splits[split].get(key))
        ]
        figures[f"{split}/stayed"] = _share(
            a.found == b.found for a, b in pairs if None not in (a.found, b.found)
        )
        changed = [(a, b) for a, b in pairs if a.truth != b.truth]
        if changed:
            figures[f"{split}/followed"] = _share(
                a.found == a.truth and b.found == b.truth for a, b in changed
            )
    return figures


def _share(values):
    values = list(values)
    return sum(values) / len(values) if values else math.nan
