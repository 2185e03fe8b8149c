"""Loggers: Weights & Biases and MLflow, which also get what TensorBoard gets."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from borrow_det.errors import InputError, check_choice
from borrow_det.io import paths
from borrow_det.workdir import metadata

_FILE = "loggers.json"  # In the work directory: the id of the run in each logger.
# Modules with a class `Run`, by the name of the logger, its package and its extra.
_MODULES = {
    "wandb": "borrow_det.reporting.loggers.wandb_run",
    "mlflow": "borrow_det.reporting.loggers.mlflow_run",
}


class Logger(Protocol):
    """A run in one logger.

    Attributes:
      run_id: its id, by which a resumed run continues it.
    """

    run_id: str

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes finite numbers, by tag."""

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes pictures, uint8 RGB [H, W, 3], by tag."""

    def close(self, finished: bool) -> None:
        """Ends the run, or interrupts it if it is not finished."""


def check(names: Sequence[str]) -> None:
    """Raises InputError for an unknown logger, or one whose package is absent."""
    for name in names:
        check_choice("report.loggers", name, tuple(_MODULES))
        found = importlib.util.find_spec(name)
        # A folder of that name, such as wandb's own, has no origin.
        if found is None or found.origin is None:
            raise InputError(
                f"report.loggers names {name}, which is not installed: pip install "
                f"-r requirements-{name}.txt (the extra {name!r}), or remove it from "
                "the field"
            )


class Loggers:
    """The loggers of a run. One that fails is reported and gets nothing more."""

    def __init__(self, opened: Mapping[str, Logger], warn: Callable[[str], None]):
        """Takes the loggers by name, and a function that prints a line."""
        self._opened = dict(opened)
        self._warn = warn

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes finite numbers, by tag."""
        self._call(lambda logger: logger.write_scalars(step, scalars))

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes pictures, uint8 RGB [H, W, 3], by tag."""
        self._call(lambda logger: logger.write_images(step, images))

    def close(self, finished: bool) -> None:
        """Ends the runs, or interrupts them if the training is not finished."""
        self._call(lambda logger: logger.close(finished))
        self._opened.clear()

    def _call(self, function: Callable[[Logger], None]) -> None:
        for name, logger in list(self._opened.items()):
            try:
                function(logger)
            except Exception as error:  # A lost connection must not end a training.
                del self._opened[name]
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                self._warn(
                    f"{name} has failed and gets nothing more until the next start; "
                    f"metrics.jsonl has all metrics ({reason})"
                )


def open_loggers(
    names: Sequence[str],
    workdir: paths.Path,
    settings: Mapping[str, bool | int | float | str],
    resumes: bool,
    warn: Callable[[str], None],
) -> Loggers:
    """Opens a run in each logger, and stores the ids in the work directory.

    Args:
      names: names of loggers, checked by `check`.
      workdir: the work directory, which names new runs.
      settings: the configuration, by field.
      resumes: whether to continue the runs that the work directory knows.
      warn: prints a line.

    Raises:
      InputError: a logger refuses, for example without an account.
    """
    path = workdir / _FILE
    known = metadata.load_json(workdir, _FILE) if paths.exists(path) else {}
    opened: dict[str, Logger] = {}
    for name in names:
        run_id = known.get(name) if resumes else None
        run = importlib.import_module(_MODULES[name]).Run
        try:
            opened[name] = run(workdir, run_id, settings)
        except Exception as error:  # Each has errors of many kinds.
            reason = " ".join(str(error).split())
            raise InputError(
                f"report.loggers: {name} cannot begin a run: {reason}"
            ) from error
    if opened:
        ids = {name: logger.run_id for name, logger in opened.items()}
        metadata.write_json(path, known | ids)
    return Loggers(opened, warn)
