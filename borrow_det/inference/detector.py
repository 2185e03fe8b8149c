"""A trained detector, rebuilt from its work directory."""

import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from borrow_det.errors import InputError
from borrow_det.models import detector
from borrow_det.ops import anchors as anchor_ops
from borrow_det.ops import nms
from borrow_det.tasks.detection import DetectionTask
from borrow_det.workdir import checkpoints, metadata

# Of each config.model.trunk, what the papers call the layers that it returns.
LEVEL_NAMES = {
    "vgg16": ("conv4_3", "conv5_3", "conv_fc7", "conv6_2"),
    "ssd300": ("conv4_3", "conv_fc7", "conv6_2", "conv7_2", "conv8_2", "conv9_2"),
    "ssd512": (
        *("conv4_3", "conv_fc7", "conv6_2", "conv7_2", "conv8_2", "conv9_2"),
        "conv10_2",
    ),
}


class Level(NamedTuple):
    """One of the maps that detections are made on."""

    number: int  # From 1, as the paper counts; config.borrow.levels counts from 0.
    name: str
    stride: int  # Pixels of the network's input.
    shape: tuple[int, int]  # (height, width) in positions.


class Attended(NamedTuple):
    """The detections of a call, and what their levels looked at; NumPy arrays."""

    detections: nms.Detections  # [B, K]
    levels: np.ndarray  # int32 [B, K], from 0: that of each detection's anchor.
    P: dict[int, np.ndarray]  # [B, R, T] of each level (from 0) that borrows.


class Detector:
    """A trained run as one function from canvases to detections.

    Attributes:
      config: the run's.
      task: its task.
      step: the checkpoint's.
      class_names, category_ids: the name and the id of each label.
      canvas: (height, width) in pixels that images are laid on.
      input_size: (height, width) of the network's input in pixels.
      levels: the maps that detections are made on, shallow to deep.
      variables: {params, batch_stats}, of `task`.
    """

    def __init__(self, config, classes: metadata.Classes, variables: dict, step: int):
        self.step = step
        self.class_names = classes.class_names
        self.category_ids = classes.category_ids
        self.canvas = tuple(config.dataset.canvas)
        self.input_size = tuple(config.input_size)
        self.config = config
        self.task = DetectionTask(config, len(classes.class_names))
        self.levels = levels_of(self.task)
        self.variables = variables
        self._detect = jax.jit(self.task.detect)
        self._attend = jax.jit(self._detect_and_attend)

    @classmethod
    def load(cls, workdir: str | os.PathLike, step: int | None = None) -> "Detector":
        """Rebuilds a work directory's network, with averaged parameters if it has any.

        Raises:
          InputError: the folder is no work directory of a detection run, or has no
            such checkpoint.
        """
        config = metadata.load_config(workdir)
        if config.task != "detection":
            raise InputError(
                f"{workdir} is a run of task={config.task}: it detects nothing; name "
                "a detection run, which may start from it by config.init_from"
            )
        classes = metadata.load_classes(workdir)
        # Found first, so that a run that goes on writing does not come between.
        step = checkpoints.newest_step(workdir) if step is None else step
        return cls(config, classes, checkpoints.restore_variables(workdir, step), step)

    def __call__(self, image: np.ndarray, image_size: np.ndarray) -> dict:
        """Detections of uint8 canvases [B, Hc, Wc, 3] whose images have `image_size`.

        Returns NumPy arrays: boxes [B, K, 4] normalised to the image, scores [B, K],
        labels [B, K] and mask [B, K], false where there is no detection.
        """
        found = self._detect(self.variables, image, image_size)
        return jax.device_get(found._asdict())

    def attend(self, image: np.ndarray, image_size: np.ndarray) -> Attended:
        """As a call, and the matching scores that the detections were made with."""
        return jax.device_get(self._attend(self.variables, image, image_size))

    def _detect_and_attend(self, variables, image, image_size):
        predictions = self.task.forward(variables, image, image_size)
        found = self.task.decode(predictions)
        levels = anchor_levels(self.task, predictions, found)
        P = {n: matching.scores for n, matching in predictions.matchings.items()}
        return Attended(found, levels, P)


def levels_of(task: DetectionTask) -> tuple[Level, ...]:
    """The levels of a task, shallow to deep."""
    names = LEVEL_NAMES[task.config.model.trunk]
    parts = zip(names, task.config.anchors.strides, task.level_shapes, strict=True)
    return tuple(Level(number, *part) for number, part in enumerate(parts, start=1))


def anchor_levels(
    task: DetectionTask, predictions: detector.Predictions, found: nms.Detections
) -> Array:
    """The level (from 0) of the anchor that each detection came from, int32 [B, K].

    Suppression says what it keeps and not where that stood. A detection's anchor is
    the one whose own box and score, of the detection's class, come nearest to it: they
    are the same numbers. Where `found.mask` is false the level means nothing.
    """
    positions = np.prod(task.level_shapes, axis=1)
    per_level = positions * anchor_ops.anchors_per_position(task.config.anchors)
    ends = jnp.asarray(np.cumsum(per_level), jnp.int32)
    boxes, scores = task.boxes_and_scores(predictions)

    def one_image(boxes, scores, found):
        off = jnp.abs(found.boxes[:, None] - boxes[None]).max(axis=-1)
        off = off + jnp.abs(found.scores[:, None] - scores.T[found.labels])
        anchor = jnp.argmin(jnp.where(jnp.isnan(off), jnp.inf, off), axis=1)
        return jnp.searchsorted(ends, anchor.astype(jnp.int32), side="right")

    return jax.vmap(one_image)(jnp.clip(boxes, 0, 1), scores, found)
