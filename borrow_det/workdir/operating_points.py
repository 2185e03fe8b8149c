"""The operating points of a run's checkpoints, in `operating_points.json`.

A training run stores `best_f1` of its last step on its first evaluation split, and
`borrow-det evaluate` adds those of other steps and of a wanted precision or recall. The
file has the `metric_iou`, and under `steps`, for each step, points by name with
`score`, `precision`, `recall`, `f1` and the `split`. A stored point is never changed.
Only a run that trains a step again drops the points that the step had.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from borrow_det.errors import InputError
from borrow_det.io import paths
from borrow_det.workdir import metadata

FILE = "operating_points.json"


class OperatingPoints(NamedTuple):
    """The operating points of one checkpoint.

    Attributes:
      workdir: work directory of the run.
      step: step of the checkpoint.
      split: the run's first evaluation split, which points are made on.
      points: by name, `score`, `precision`, `recall`, `f1` and `split`.
    """

    workdir: str
    step: int
    split: str
    points: Mapping[str, Mapping[str, Any]]


def load(workdir: str | os.PathLike, step: int, split: str) -> OperatingPoints:
    """Reads the operating points of a step; none if the run has not stored any.

    Args:
      workdir: work directory of the run.
      step: step of the checkpoint.
      split: the run's first evaluation split.

    Raises:
      InputError: the file has another form.
    """
    points = _steps(workdir).get(str(step), {})
    return OperatingPoints(os.fspath(workdir), step, split, points)


def add(
    workdir: str | os.PathLike,
    step: int,
    points: Mapping[str, Mapping[str, float] | None],
    split: str,
    iou: float,
) -> list[str]:
    """Stores operating points of a step unless it has points of these names.

    Args:
      workdir: work directory of the run.
      step: step of the checkpoint.
      points: by name; None for those that do not exist.
      split: split that they were computed on.
      iou: IoU threshold that they were computed at.

    Returns:
      Names of the points that were stored.
    """
    steps = _steps(workdir)
    known = steps.get(str(step), {})
    new = {
        name: {**point, "split": split}
        for name, point in points.items()
        if point and name not in known
    }
    if new:
        steps = {**steps, str(step): {**known, **new}}
        ordered = {key: steps[key] for key in sorted(steps, key=int)}
        content = {"metric_iou": iou, "steps": ordered}
        metadata.write_json(paths.as_path(workdir) / FILE, content)
    return list(new)


def drop_from(workdir: str | os.PathLike, step: int, write: bool = True) -> None:
    """Drops the points of this step and of later ones, which a run trains again.

    Args:
      workdir: work directory of the run.
      step: first step whose points are dropped.
      write: whether to write; one process of a run does, the others do nothing.
    """
    steps = _steps(workdir) if write else {}
    kept = {key: points for key, points in steps.items() if int(key) < step}
    if kept != steps:
        content = metadata.load_json(workdir, FILE) | {"steps": kept}
        metadata.write_json(paths.as_path(workdir) / FILE, content)


def describe(name: str, point: Mapping[str, Any]) -> str:
    """Returns a line about a point."""
    return (
        f"{name}: score {point['score']:.3f}, precision {point['precision']:.3f}, "
        f"recall {point['recall']:.3f}, F1 {point['f1']:.3f}"
        + (f" on {point['split']}" if "split" in point else "")
    )


def _steps(workdir: str | os.PathLike) -> dict[str, Any]:
    if not paths.exists(paths.as_path(workdir) / FILE):
        return {}
    steps = metadata.load_json(workdir, FILE).get("steps")
    if not isinstance(steps, dict) or not all(map(str.isdigit, steps)):
        raise InputError(
            f"{workdir}/{FILE} has no points by step: remove it, and make it anew with "
            "borrow-det evaluate"
        )
    return steps
