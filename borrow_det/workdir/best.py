"""The best checkpoint of a run, `W/best.json`, and the checkpoint that a tool asks for.

`best.json` holds `{"step", "split", "metric", "value"}`. It is written after the
checkpoint of its step is complete, and that checkpoint is kept next to the latest.
"""

import os
from typing import Any, NamedTuple

from borrow_det.errors import InputError
from borrow_det.io import paths
from borrow_det.workdir import checkpoints, metadata

BEST, LAST = "best", "last"
_FILE = "best.json"


class Best(NamedTuple):
    """The best evaluation of a run.

    Attributes:
      step: its step.
      split: the evaluation split that was compared.
      metric: name of the metric; larger values are better.
      value: its value.
    """

    step: int
    split: str
    metric: str
    value: float


def read(workdir: str | os.PathLike) -> Best | None:
    """Reads `best.json`; returns None if the run has not chosen a checkpoint.

    Raises:
      InputError: the file is damaged.
    """
    path = paths.as_path(workdir) / _FILE
    if not paths.exists(path):
        return None
    fields = metadata.load_json(workdir, _FILE)
    kinds: dict[str, Any] = {"step": int, "split": str, "metric": str}
    kinds["value"] = int | float
    wrong = [n for n, kind in kinds.items() if not isinstance(fields.get(n), kind)]
    if wrong:
        raise InputError(
            f"{path} has no valid {', '.join(wrong)}: remove the file and start the "
            "run again, which writes it anew"
        )
    return Best(*(fields[name] for name in Best._fields))


def write(workdir: paths.Path, best: Best | None) -> None:
    """Writes `best.json` completely or not at all; None removes it."""
    path = workdir / _FILE
    if best is not None:
        metadata.write_json(path, best._asdict())
    elif paths.exists(path):
        path.unlink()


def find_step(workdir: str | os.PathLike, step: Any = LAST) -> int:
    """Returns the step of the checkpoint that is asked for.

    Args:
      workdir: work directory of a run.
      step: "best", "last" (also None) or a number; whether there is a checkpoint of a
        number is checked when it is restored.

    Raises:
      InputError: the checkpoint is absent; names those that exist.
    """
    if step is not None and not isinstance(step, str):
        return int(step)
    steps = checkpoints.complete_steps(workdir)
    if not steps:
        raise InputError(
            f"{workdir} holds no checkpoints that are complete: train there first"
        )
    if step in (LAST, None):
        return steps[-1]
    if step != BEST:
        raise InputError(f"step is {step!r}; it must be best, last or a number")
    best, others = read(workdir), f"it has checkpoints of steps {steps}"
    if best is None:
        raise InputError(
            f"{workdir} has no best checkpoint: it was trained without "
            "checkpoint_best or without an object to find, or has not been evaluated "
            f"yet; {others}"
        )
    if best.step not in steps:
        raise InputError(
            f"the best checkpoint of {workdir}, of step {best.step}, is gone; {others}"
        )
    return best.step
