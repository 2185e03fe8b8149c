"""Metrics of small objects that show where borrowing could help.

They are computed from the stored detections of the cells:
  AP_small_lender_classes, AP50_small_lender_classes: AP if the detections on small
    objects had the class that is predicted for their lender
    (evaluation/lender_classes.py).
  small_accuracy_confused, small_accuracy_clear, and so on: the accuracy of the small
    objects that the sweep's other runs confuse, and of the others
    (evaluation/confused_objects.py).
"""

from borrow_det.evaluation import average_precision, confused_objects, lender_classes
from borrow_det.evaluation.coco_values import Id
from borrow_det.tasks.detection_evaluator import DetectionEvaluator, sized

# Answers for small objects by row and seed, and by split.
Answers = dict[tuple[str, int], dict[str, confused_objects.SmallObjects]]


def measure(
    evaluator: DetectionEvaluator, results: list[dict]
) -> tuple[dict[str, float], confused_objects.SmallObjects]:
    """Returns the AP with the classes of lenders, and the answers for small objects."""
    config = evaluator.config.evaluation
    truth, detections = sized(evaluator.truth, results, evaluator.config)
    lent = lender_classes.with_classes_of_lenders(
        truth, detections, config.lender_scale
    )
    metrics = average_precision.coco_metrics(truth, lent, config.max_detections)
    return (
        {
            f"{name}_lender_classes": metrics[name]
            for name in ("AP_small", "AP50_small")
        },
        confused_objects.small_objects(truth, detections, config.lender_scale),
    )


def outcomes(
    answers: Answers,
) -> dict[tuple[str, int, str], dict[str, list[tuple[Id, bool]]]]:
    """Returns `confused_objects.outcomes` by row, seed and split.

    The runs of all rows with another seed vote, so that no row is preferred. Only seeds
    that all rows have vote, since unfinished rows would have fewer votes.

    Args:
      answers: answers of the cells.
    """
    seeds: dict[str, set[int]] = {}
    for row, seed in answers:
        seeds.setdefault(row, set()).add(seed)
    common = set.intersection(*seeds.values()) if seeds else set()
    found = {}
    for (row, seed), by_split in answers.items():
        voters = [of for (_, s), of in answers.items() if s in common - {seed}]
        for split, own in by_split.items():
            votes = [voter[split].answers for voter in voters if split in voter]
            found[row, seed, split] = confused_objects.outcomes(own, votes)
    return found
