"""Metrics of classification."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

TOP = 5


def accuracy(
    results: Sequence[Mapping[str, Any]], num_classes: int
) -> dict[str, float]:
    """Computes top-1 and top-5 accuracy and the mean loss over a split.

    Args:
      results: for each image `label`, `top_labels` (best first) and `loss`.
      num_classes: number of classes. Top-5 accuracy of five or fewer classes is always
        1 and is left out.

    Returns:
      `top1` and `top5`, in [0, 1], and `loss`, in nats.
    """
    labels = np.array([result["label"] for result in results])
    top = np.array([result["top_labels"] for result in results])
    correct = top == labels[:, None]
    metrics = {"top1": float(correct[:, 0].mean())}
    if num_classes > TOP:
        metrics["top5"] = float(correct[:, :TOP].any(axis=1).mean())
    metrics["loss"] = float(np.mean([result["loss"] for result in results]))
    return metrics
