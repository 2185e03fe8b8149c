"""Metrics of small objects that show where borrowing could help.

They are computed from the stored detections of the cells:
  AP_small_ceiling, AP50_small_ceiling: AP if the detections on small objects had the
    class that is predicted for their lender (evaluation/lender_classes.py).
  small_accuracy_confused, small_accuracy_clear, and so on: the accuracy of the small
    objects that other seeds of the baseline confuse, and of the others
    (evaluation/confused_objects.py).
"""

from borrow_det.evaluation import average_precision, confused_objects, lender_classes
from borrow_det.evaluation.coco_values import Id
from borrow_det.tasks.detection_evaluator import DetectionEvaluator, sized

# Answers for small objects by row and seed, and by split.
Answers = dict[tuple[str, int], dict[str, confused_objects.SmallObjects]]


def answers(
    evaluator: DetectionEvaluator, results: list[dict]
) -> confused_objects.SmallObjects:
    """Returns the answers of an evaluation for the small objects."""
    config = evaluator.config
    truth, detections = sized(evaluator.truth, results, config)
    scale = config.evaluation.lender_scale
    return confused_objects.small_objects(truth, detections, scale)


def ceiling(evaluator: DetectionEvaluator, results: list[dict]) -> dict[str, float]:
    """Returns the AP of small objects with the classes predicted for their lenders."""
    config = evaluator.config
    truth, detections = sized(evaluator.truth, results, config)
    scale = config.evaluation.lender_scale
    metrics = average_precision.coco_metrics(
        truth,
        lender_classes.with_classes_of_lenders(truth, detections, scale),
        config.evaluation.max_detections,
    )
    return {f"{name}_ceiling": metrics[name] for name in ("AP_small", "AP50_small")}


def outcomes(
    answers: Answers, baseline: str
) -> dict[tuple[str, int, str], dict[str, list[tuple[Id, bool]]]]:
    """Returns `confused_objects.outcomes` by row, seed and split.

    Args:
      answers: answers of the cells.
      baseline: name of the row whose other seeds vote.
    """
    found = {}
    for (row, seed), by_split in answers.items():
        voters = [
            of_voter
            for (name, other), of_voter in answers.items()
            if name == baseline and other != seed
        ]
        for split, own in by_split.items():
            votes = [voter[split].answers for voter in voters if split in voter]
            found[row, seed, split] = confused_objects.outcomes(own, votes)
    return found
