"""Accuracy of small objects by whether detectors confuse their class.

A small object can borrow its class from a lender. One would expect this to help most
where detectors take the object for one of another class. Other runs, the voters, divide
the small objects by their answers (see counterfactual.py):
  confused    at least half of the voters that detect the object answer another class;
  clear       more than half of them answer its own class;
  undetected  none of the voters detects it.

The run that is measured must not vote, since its own chance errors would be counted as
those of hard objects. Nor should all voters be of one of two methods that are compared:
objects on which mainly this method errs would be confused, so that the other method
would seem to gain.

Metrics, where GROUP is one of the three, and LENDER is `with_lender` or
`without_lender`, in the object's image (see lenders.py):
  small_accuracy, small_accuracy_LENDER, small_accuracy_GROUP,
  small_accuracy_GROUP_LENDER: share of these small objects whose answer is correct; no
    answer counts as incorrect.
  objects_small_GROUP, objects_small_GROUP_LENDER: the number of objects.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from borrow_det.evaluation import counterfactual, lenders
from borrow_det.evaluation.coco_values import Id

GROUPS = ("confused", "clear", "undetected")


class SmallObjects(NamedTuple):
    """A run's answers for the small objects of a split.

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
    keys = map(counterfactual.key, ground_truth["annotations"])
    # Of several small objects with the same box, the last one stays, as in the answers.
    has_lender = dict(zip(keys, lent, strict=True))
    return SmallObjects(
        counterfactual.answers(ground_truth, detections),
        frozenset(key for key, has in has_lender.items() if has),
    )


def outcomes(
    own: SmallObjects, voters: Sequence[counterfactual.Answers]
) -> dict[str, list[tuple[Id, bool]]]:
    """Returns (image id, whether the answer is correct) of the objects of each metric.

    Args:
      own: the answers of the run that is measured.
      voters: the answers of other runs on the same split; without any, the metrics of
        groups are left out.

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
        outcome = key[0], answer.found == answer.truth
        lender = "_with_lender" if key in own.with_lender else "_without_lender"
        votes = [voter[key] for voter in voters if key in voter]
        for suffix in ["", f"_{_group(votes)}"] if voters else [""]:
            found[f"small_accuracy{suffix}"].append(outcome)
            found[f"small_accuracy{suffix}{lender}"].append(outcome)
    return found


def _group(votes: Sequence[counterfactual.Answer]) -> str:
    """Returns the group of an object."""
    detected = [vote for vote in votes if vote.found is not None]
    if not detected:
        return "undetected"
    right = sum(vote.found == vote.truth for vote in detected)
    return "clear" if 2 * right > len(detected) else "confused"


def metrics(found: Mapping[str, Sequence[tuple[Id, bool]]]) -> dict[str, float]:
    """Computes the metrics of `outcomes`, nan without objects, and their numbers."""
    figures = {}
    for name, flags in found.items():
        figures[name] = counterfactual.share(flags)
        part = name.removeprefix("small_accuracy_")
        if part.startswith(GROUPS):
            figures[f"objects_small_{part}"] = float(len(flags))
    return figures
