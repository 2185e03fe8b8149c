"""Tags of metrics in TensorBoard, whose start groups them."""

import re

from borrow_det import evaluate

_BORROWING = re.compile(
    rf"{evaluate.COMPARISON}/.*|[^/]+/(?:attention/.*|\w+_small_with(?:out)?_lender)"
)


def training_tag(name: str) -> str:
    """Returns the tag of a metric of the training steps."""
    return f"training/{name}"


def evaluation_tag(name: str) -> str:
    """Returns the tag of a metric of an evaluation.

    The attention, the metrics of small objects with and without a lender, and those
    that compare splits are in the group `borrowing`, the others in `evaluation`.

    Args:
      name: name in metrics.jsonl, `SPLIT/METRIC`.
    """
    group = "borrowing" if _BORROWING.fullmatch(name) else "evaluation"
    return f"{group}/{name}"
