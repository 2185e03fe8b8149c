"""Figures of classification."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

TOP = 5


def accuracy(
    results: Sequence[Mapping[str, Any]], num_classes: int
) -> dict[str, float]:
    """Top-1 and top-5 accuracy and the mean loss over a split.

    Args:
      results: of each image `label`, `top_labels` (best first) and `loss`.
      num_classes: with no more than five, top-5 is always right and is left out.

    Returns:
      `top1` and `top5`, shares in [0, 1], and `loss`, in nats.
    """
    labels = np.array([result["label"] for result in results])
    top = np.array([result["top_labels"] for result in results])
    right = top == labels[:, None]
    metrics = {"top1": float(right[:, 0].mean())}
    if num_classes > TOP:
        metrics["top5"] = float(right[:, :TOP].any(axis=1).mean())
    metrics["loss"] = float(np.mean([result["loss"] for result in results]))
    return metrics
