"""The losses of classes and boxes that a configuration describes."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax import Array

from borrow_det.models.detector import Predictions
from borrow_det.ops import boxes as box_ops
from borrow_det.ops import iou_losses, losses
from borrow_det.tasks.detection_targets import DetectionExamples

CLASSIFICATION = ("softmax", "focal")
BOX = ("smooth_l1", *iou_losses.LOSSES)


def anchor_losses(
    config: ml_collections.ConfigDict,
    anchors: np.ndarray,
    predictions: Predictions,
    examples: DetectionExamples,
) -> dict[str, Array]:
    """Returns `classification` and `localization`, sums over anchors and images.

    Args:
      config: the run's configuration.
      anchors: float32 [A, 4].
      predictions: the network's predictions.
      examples: the examples that they are for.
    """
    return {
        "classification": _classification(config.loss, predictions, examples),
        "localization": _localization(config, anchors, predictions, examples),
    }


def _classification(
    config: ml_collections.ConfigDict,
    predictions: Predictions,
    examples: DetectionExamples,
) -> Array:
    if config.classification == "focal":
        focal = functools.partial(
            losses.focal_classification_loss,
            alpha=config.focal_alpha,
            gamma=config.focal_gamma,
        )
        return _sum_over_batch(
            focal, predictions.logits, examples.target, examples.ignored
        )
    softmax = functools.partial(
        losses.classification_loss,
        negatives_per_positive=config.negatives_per_positive,
        min_negatives=config.min_negatives,
    )
    return _sum_over_batch(
        softmax,
        predictions.logits,
        examples.target,
        examples.positive,
        examples.ignored,
    )


def _localization(
    config: ml_collections.ConfigDict,
    anchors: np.ndarray,
    predictions: Predictions,
    examples: DetectionExamples,
) -> Array:
    offsets = predictions.offsets, examples.offsets, examples.positive
    if config.loss.box == "smooth_l1":
        return _sum_over_batch(losses.localization_loss, *offsets)
    variances = tuple(config.anchors.variances)
    # In pixels of the input, since an aspect ratio in normalized coordinates is another
    # one if the input is not a square.
    pixels = jnp.array((*config.input_size, *config.input_size), jnp.float32)
    box_loss = iou_losses.LOSSES[config.loss.box]

    def image_loss(offsets: Array, target: Array, positive: Array) -> Array:
        boxes, target = (
            box_ops.decode(x, jnp.asarray(anchors), variances) * pixels[None]
            for x in (offsets, target)
        )
        # Masked before the loss: a target that is not used must not make a NaN
        # gradient. The loss of a box with itself is zero.
        unit = jnp.array([[0.0, 0.0, 1.0, 1.0]], jnp.float32)
        boxes, target = (jnp.where(positive[:, None], x, unit) for x in (boxes, target))
        return jnp.sum(box_loss(boxes, target))

    return _sum_over_batch(image_loss, *offsets)


def _sum_over_batch(loss: Callable, *arrays: Array) -> Array:
    return jnp.sum(jax.vmap(loss)(*arrays))
