"""A run in MLflow."""

import os
import re
from collections.abc import Mapping

import mlflow
import numpy as np

from borrow_det.io import paths

_EXPERIMENT = "borrow_det"  # Unless a variable names another.
_VARIABLES = ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID")
_LONGEST = 250  # Characters of a metric's name.


class Run:
    """A run in MLflow; see `loggers.Logger`.

    The environment variables of MLflow hold: MLFLOW_TRACKING_URI, ...
    """

    def __init__(
        self,
        workdir: paths.Path,
        run_id: str | None,
        settings: Mapping[str, bool | int | float | str],
    ):
        """Begins a run, or continues the one of an id."""
        run = mlflow.start_run(
            run_id=run_id,
            experiment_id=None if run_id else _experiment(),
            run_name=None if run_id else workdir.name,
            nested=True,  # Of a caller's own run, if there is one.
        )
        self.run_id: str = run.info.run_id
        if not run_id:  # Parameters of a run cannot change.
            mlflow.log_params(dict(settings), run_id=self.run_id)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes finite numbers, by tag."""
        metrics = {_allowed(tag): value for tag, value in scalars.items()}
        mlflow.log_metrics(metrics, step=step, run_id=self.run_id)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes pictures, uint8 RGB [H, W, 3], as artifacts `TAG/STEP.jpg`."""
        client = mlflow.MlflowClient()
        for tag, image in images.items():
            client.log_image(self.run_id, image, f"{_allowed(tag)}/{step}.jpg")

    def close(self, finished: bool) -> None:
        """Ends the run, or marks it as killed if it is not finished."""
        mlflow.end_run("FINISHED" if finished else "KILLED")


def _experiment() -> str | None:
    """Returns the id of the experiment; None for the one that a variable names."""
    if any(name in os.environ for name in _VARIABLES):
        return None
    found = mlflow.get_experiment_by_name(_EXPERIMENT)
    return found.experiment_id if found else mlflow.create_experiment(_EXPERIMENT)


def _allowed(tag: str) -> str:
    """Returns a tag as MLflow takes it: names of classes may have any characters."""
    parts = [re.sub(r"[^\w\-. :]", "_", part) for part in tag.split("/")]
    name = "/".join("_" if part in ("", ".", "..") else part for part in parts)
    return name[:_LONGEST].rstrip("/")
