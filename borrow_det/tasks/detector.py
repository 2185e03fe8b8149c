"""A trained detector, rebuilt from its work directory."""

import os

import jax
import numpy as np

from borrow_det import checkpoints
from borrow_det import workdir as workdir_lib
from borrow_det.errors import InputError
from borrow_det.tasks.detection import DetectionTask


class Detector:
    """A trained run as one function from canvases to detections."""

    def __init__(self, config, classes: workdir_lib.Classes, variables: dict):
        self.class_names = classes.class_names
        self.category_ids = classes.category_ids
        self.canvas = tuple(config.dataset.canvas)
        self.input_size = tuple(config.input_size)
        self.config = config
        self._variables = variables
        self._detect = jax.jit(DetectionTask(config, len(classes.class_names)).detect)

    @classmethod
    def load(cls, workdir: str | os.PathLike, step: int | None = None) -> "Detector":
        """Rebuilds a work directory's network, with averaged parameters if it has any.

        Raises:
          InputError: the folder is no work directory of a detection run, or has no
            such checkpoint.
        """
        config = workdir_lib.load_config(workdir)
        if config.task != "detection":
            raise InputError(
                f"{workdir} is a run of task={config.task}: it detects nothing; name "
                "a detection run, which may start from it by config.init_from"
            )
        classes = workdir_lib.load_classes(workdir)
        return cls(config, classes, checkpoints.restore_variables(workdir, step))

    def __call__(self, image: np.ndarray, image_size: np.ndarray) -> dict:
        """Detections of uint8 canvases [B, Hc, Wc, 3] whose images have `image_size`.

        Returns NumPy arrays: boxes [B, K, 4] normalised to the image, scores [B, K],
        labels [B, K] and mask [B, K], false where there is no detection.
        """
        found = self._detect(self._variables, image, image_size)
        return jax.device_get(found._asdict())
