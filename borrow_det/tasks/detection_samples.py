"""Metrics of detections on resamples of a split's images (evaluation/bootstrap.py)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from borrow_det.data import groups
from borrow_det.data.datasets import folder_splits
from borrow_det.evaluation import average_precision, bootstrap, counterfactual, lenders
from borrow_det.tasks.detection_evaluator import DetectionEvaluator, answers, sized


def units(evaluator: DetectionEvaluator) -> bootstrap.Units:
    """Returns what a resample of the split draws.

    These are the groups of references.field or dataset.group, or of a known field that
    all images have; otherwise the images. The versions that Roboflow makes of one
    picture are drawn together.

    Raises:
      InputError: the field that groups the images does not fit.
    """
    split = evaluator.split
    if groups.group_field(evaluator.config):
        keys = groups.configured_keys(split, evaluator.config)
    else:
        known = folder_splits.group_field(split.descriptions, "")
        keys = list(folder_splits.group_keys(split.descriptions, known))
    ids = [image["id"] for image in evaluator.truth["images"]]
    return bootstrap.make_units(ids, keys)


def metrics(
    evaluator: DetectionEvaluator,
    results: list[dict],
    of_images: bootstrap.Units,
    weights: np.ndarray,
) -> dict[str, np.ndarray]:
    """Computes metrics of detections on resamples.

    Args:
      evaluator: evaluator of the split.
      results: detections on the split.
      of_images: units of the split's images.
      weights: float64 [U, B], how often each unit was drawn.

    Returns:
      float64 [B] by name: AP, AP50 and AR of all objects, of small ones, and of small
      ones with and without a lender, and AP75 of all objects.
    """
    config = evaluator.config.evaluation
    truth, detections = sized(evaluator.truth, results, evaluator.config)
    matcher = bootstrap.Matcher(truth, detections, of_images, config.max_detections)
    values = bootstrap.resampled(matcher.match(), weights)
    found = {name: values[name] for name in ("AP", "AP50", "AP75")}
    found[f"AR_{config.max_detections}"] = values["AR"]
    sets: dict[str, np.ndarray | None] = {"small": None}
    sets |= _subsets(evaluator, truth)
    for name, subset in sets.items():
        small = average_precision.AREA_RANGES["small"]
        values = bootstrap.resampled(matcher.match(small, subset), weights)
        found |= {f"{kind}_{name}": values[kind] for kind in ("AP", "AP50", "AR")}
    return found


def _subsets(
    evaluator: DetectionEvaluator, truth: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Returns the small objects with and without a lender, bool [G] by name."""
    scale = evaluator.config.evaluation.lender_scale
    subsets = lenders.with_and_without(truth, scale)
    if evaluator.image_groups is not None:
        keys = evaluator.image_groups.group.tolist()
        subsets |= lenders.with_and_without(truth, scale, keys)
    return {f"small_{name}": members for name, members in subsets.items()}


def compared(
    evaluators: Sequence[DetectionEvaluator],
    read_results: Callable[[DetectionEvaluator], list[dict]],
    of_images: bootstrap.Units,
    weights: np.ndarray,
) -> dict[str, np.ndarray]:
    """Computes the metrics of `DetectionEvaluator.compare` on resamples.

    Args:
      evaluators: those of all splits.
      read_results: returns the results on a split.
      of_images: units of the factual split's images, whose ids the others share.
      weights: float64 [U, B], how often each unit was drawn.

    Returns:
      float64 [B] by `SPLIT/NAME`.
    """
    found = counterfactual.outcomes(*answers(evaluators, read_results))
    return {
        name: bootstrap.resampled_share(flags, of_images, weights)
        for name, flags in found.items()
    }
