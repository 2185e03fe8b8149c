"""The best step of a run, by a metric of one of its evaluation splits."""

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from borrow_det.distributed import processes
from borrow_det.errors import InputError
from borrow_det.evaluation import metric_names
from borrow_det.io import paths
from borrow_det.workdir import best as best_file
from borrow_det.workdir import metadata

_AUTO = "auto"


class Criterion(NamedTuple):
    """The metric that evaluations are compared by; larger values are better."""

    split: str
    metric: str

    def __str__(self) -> str:
        return f"{self.metric} on {self.split}"


def make_criterion(
    field: str,
    default: Callable[[], str | None],
    offered: Mapping[str, Callable[[], Sequence[str]]],
    stop_after: int = 0,
) -> Criterion | None:
    """Returns the criterion that `config.checkpoint_best` names.

    Args:
      field: "auto" for the default metric of the first split; METRIC, of the first
        split; SPLIT/METRIC; or "" for none.
      default: returns the default metric of the first split; None if it has none.
      offered: for each evaluation split, in order, a function that returns the names
        of the metrics that are defined on it. (On large splits it takes a while.)
      stop_after: `config.stop_after`, which needs a criterion unless it is 0.

    Returns:
      The criterion, or None if there is none, as on a split without objects.

    Raises:
      InputError: no split has such a metric, or stop_after has nothing to compare.
    """
    first = next(iter(offered))
    if field in ("", _AUTO):
        chosen = default() if field else None
        if stop_after and not chosen:
            why = f"{first} has no object to find" if field else "it is empty"
            raise InputError(
                f"stop_after is {stop_after}, but checkpoint_best names no metric to "
                f"compare ({why}): set checkpoint_best, or stop_after to 0"
            )
        return Criterion(first, chosen) if chosen else None
    defined = {split: names() for split, names in offered.items()}
    for split, names in defined.items():
        prefixes = {f"{split}/", f"{metadata.folder_name(split)}/"}
        for prefix in prefixes | ({""} if split == first else set()):
            metric = field.removeprefix(prefix)
            if field.startswith(prefix) and metric in names:
                return Criterion(split, metric)
    listed = "; ".join(
        f"on {split}: "
        + (", ".join(name for name in names if "/" not in name) or "none")
        for split, names in defined.items()
    )
    raise InputError(
        f"checkpoint_best is {field!r}; it must be auto, empty, or a METRIC of "
        f"{first} or SPLIT/METRIC that is defined there ({listed})"
    )


class BestStep:
    """The best of the evaluations of a run so far.

    Every process of the run makes one and calls the same methods in the same order;
    the main process knows the values.

    Attributes:
      criterion: the metric that is compared; None: no step is the best.
      step: the best step whose checkpoint exists; None before the first evaluation.
      evaluations_since: the number of evaluations after the best one, whether its
        checkpoint exists or not.
    """

    def __init__(
        self,
        criterion: Criterion | None,
        workdir: paths.Path,
        step: int,
        saved: Collection[int],
    ):
        """Reads the evaluations of earlier starts.

        Args:
          criterion: the metric to compare.
          workdir: the run's work directory, whose metrics.jsonl ends with `step`.
          step: the step that the run starts or resumes from.
          saved: the steps of its checkpoints.
        """
        self.criterion = criterion
        self.step: int | None = None
        self.evaluations_since = 0
        self._workdir = workdir
        self._saved = set(saved)
        self._values: dict[int, float] = {}
        if criterion is not None and processes.is_main_process():
            self._values = _earlier_values(workdir, criterion, step)
        self._choose()

    @property
    def record(self) -> best_file.Best | None:
        """The content of `best.json`; in the main process only."""
        if self.criterion is None or self.step not in self._values:
            return None
        return best_file.Best(self.step, *self.criterion, self._values[self.step])

    def add(self, step: int, metrics: Mapping[str, Mapping[str, float]]) -> bool:
        """Adds an evaluation, whose step has a checkpoint or gets one if it is best.

        Args:
          step: the step.
          metrics: the metrics by split; empty in the other processes.

        Returns:
          Whether this step is now the best one and was not before. The earlier of
          equal values is the better one, and nan is never the best.
        """
        if self.criterion is None:
            return False
        before = self.step
        self._saved.add(step)
        if processes.is_main_process():
            split, metric = self.criterion
            self._values[step] = metrics[split][metric]
        self._choose()
        return self.step == step != before

    def stalled(self, stop_after: int) -> bool:
        """Returns whether that many evaluations have had no gain; never for 0."""
        return 0 < stop_after <= self.evaluations_since

    def describe_stop(self, step: int, num_steps: int) -> str:
        """Returns a line about a run that has stopped early at `step`."""
        since = self.evaluations_since
        gain = first_largest(self._values)
        return (
            f"stopped early at step {step:,} of {num_steps:,}: {self.criterion} has "
            f"not risen in {since} evaluation{'s' * (since > 1)} since step {gain}; to "
            f"continue, set stop_after to 0 or above {since}"
        )

    def write(self) -> None:
        """Writes `best.json` if it changes, once the checkpoint is complete."""
        if not processes.is_main_process():
            return
        if best_file.read(self._workdir) != self.record:
            best_file.write(self._workdir, self.record)

    def _choose(self) -> None:
        found = first_largest(
            {step: v for step, v in self._values.items() if step in self._saved}
        )
        gain = first_largest(self._values)
        since = sum(gain is None or step > gain for step in self._values)
        known = np.array([-1 if found is None else found, since])
        step, since = map(int, processes.from_main_process(known))
        self.step, self.evaluations_since = None if step < 0 else step, since


def first_largest(values: Mapping[int, float]) -> int | None:
    """Returns the first step with the largest value; None if all are nan."""
    defined = {step: value for step, value in values.items() if not math.isnan(value)}
    return min(defined, key=lambda step: (-defined[step], step), default=None)


def _earlier_values(
    workdir: paths.Path, criterion: Criterion, last: int
) -> dict[int, float]:
    """Reads the criterion's value at each step from metrics.jsonl, until `last`."""
    values: dict[int, float] = {}
    best = best_file.read(workdir)
    # metrics.jsonl may have been moved away.
    if best is not None and Criterion(best.split, best.metric) == criterion:
        values[best.step] = best.value
    path = workdir / "metrics.jsonl"
    wanted = f"{metadata.folder_name(criterion.split)}/{criterion.metric}"
    for line in path.read_bytes().splitlines() if paths.exists(path) else ():
        record = metric_names.with_current_names(json.loads(line))
        if wanted in record:
            value = record[wanted]
            values[record["step"]] = math.nan if value is None else value
    return {step: value for step, value in values.items() if step <= last}
