"""A run in Weights & Biases."""

import os
from collections.abc import Mapping

import numpy as np
import wandb

from borrow_det.io import paths

_PROJECT = "borrow_det"  # Unless WANDB_PROJECT names another.


class Run:
    """A run in Weights & Biases; see `loggers.Logger`.

    The environment variables of wandb hold: WANDB_MODE, WANDB_PROJECT, WANDB_DIR, ...
    """

    def __init__(
        self,
        workdir: paths.Path,
        run_id: str | None,
        settings: Mapping[str, bool | int | float | str],
    ):
        """Begins a run, or continues the one of an id."""
        elsewhere = paths.is_remote(workdir) or "WANDB_DIR" in os.environ
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=None if run_id else os.environ.get("WANDB_NAME", workdir.name),
            dir=None if elsewhere else str(workdir),
            id=run_id,
            resume="allow",
            # Without the console, whose bars are no lines.
            settings=wandb.Settings(console="off"),
        )
        self._run.config.update(dict(settings), allow_val_change=True)
        # wandb's own steps only grow, but a run that resumes repeats some.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self.run_id: str = self._run.id

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes finite numbers, by tag."""
        self._run.log({**scalars, "step": step})

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes pictures, uint8 RGB [H, W, 3], by tag."""
        pictures = {
            tag: wandb.Image(image, file_type="jpg") for tag, image in images.items()
        }
        self._run.log({**pictures, "step": step})

    def close(self, finished: bool) -> None:
        """Ends the run, or marks it as failed if it is not finished."""
        self._run.finish(exit_code=0 if finished else 1)
