"""Accuracy of small objects whose class other detectors confuse, and of the others.

A small object can borrow its class from a lender. That helps where a detector that does
not borrow takes the object for one of another class, and not where it is right anyway.
Such detectors, for example plain SSD with several seeds, divide the small objects. They
vote with their answers (see counterfactual.py): an object is
  confused if at least one of them answers another class, and no more of them answer its
    own class;
  clear if more of them answer its own class.
An object that none of them detects is neither. The detector that is measured must not
be one of them: its own errors would be counted as those of hard objects.

Metrics, where GROUP is `confused` or `clear` and LENDER is `with_lender` or
`without_lender` (see lenders.py):
  small_accuracy, small_accuracy_LENDER, small_accuracy_GROUP,
  small_accuracy_GROUP_LENDER: share of these small objects whose answer is correct; no
    answer counts as incorrect.
  objects_small_GROUP, objects_small_GROUP_LENDER: the number of objects.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from borrow_det.evaluation import counterfactual, lenders
from borrow_det.evaluation.coco_values import Id

GROUPS = ("confused", "clear")


class SmallObjects(NamedTuple):
    """A detector's answers for the small objects of a split.

    Attributes:
      answers: the answer for each small object.
      with_lender: keys of the objects that have a lender in their image.
    """

    answers: counterfactual.Answers
    with_lender: frozenset[tuple]


def small_objects(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    scale: float,
) -> SmallObjects:
    """Returns the answers for the small objects of a split.

    Args:
      ground_truth: COCO dictionary (see average_precision.py).
      detections: COCO results list.
      scale: least ratio of a lender's side to the small object's side.
    """
    lent = lenders.with_and_without(ground_truth, scale)["with_lender"].tolist()
    return SmallObjects(
        counterfactual.answers(ground_truth, detections),
        frozenset(
            counterfactual.key(annotation)
            for annotation, has_lender in zip(
                ground_truth["annotations"], lent, strict=True
            )
            if has_lender
        ),
    )


def outcomes(
    own: SmallObjects, voters: Sequence[counterfactual.Answers]
) -> dict[str, list[tuple[Id, bool]]]:
    """Returns (image id, whether the answer is correct) of the objects of each metric.

    Args:
      own: the answers of the detector that is measured.
      voters: the answers of other detectors on the same split; without any, there are
        no metrics of groups.

    Returns:
      Outcomes by name of the metric; a metric is the share of true outcomes.
    """
    suffixes = ["", *(f"_{group}" for group in GROUPS if voters)]
    found: dict[str, list[tuple[Id, bool]]] = {
        f"small_accuracy{suffix}{lender}": []
        for suffix in suffixes
        for lender in ("", "_with_lender", "_without_lender")
    }
    for key, answer in own.answers.items():
        votes = [voter[key] for voter in voters if key in voter]
        group = _group(votes)
        lender = "_with_lender" if key in own.with_lender else "_without_lender"
        outcome = key[0], answer.found == answer.truth
        for suffix in ["", f"_{group}"] if group else [""]:
            found[f"small_accuracy{suffix}"].append(outcome)
            found[f"small_accuracy{suffix}{lender}"].append(outcome)
    return found


def _group(votes: Sequence[counterfactual.Answer]) -> str | None:
    """Returns the group of an object, None if it is in neither."""
    detected = [vote for vote in votes if vote.found is not None]
    if not detected:
        return None
    right = sum(vote.found == vote.truth for vote in detected)
    return "clear" if 2 * right > len(detected) else "confused"


def metrics(found: Mapping[str, Sequence[tuple[Id, bool]]]) -> dict[str, float]:
    """Computes the metrics of `outcomes`, nan without objects, and their numbers."""
    figures = {}
    for name, flags in found.items():
        right = sum(flag for _, flag in flags)
        figures[name] = right / len(flags) if flags else math.nan
        part = name.removeprefix("small_accuracy_")
        if part.startswith(GROUPS):
            figures[f"objects_small_{part}"] = float(len(flags))
    return figures
