"""What a run prints and writes of its progress; the main process of a run does."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from clu import parameter_overview

from borrow_det import evaluate
from borrow_det.io import paths
from borrow_det.reporting import report
from borrow_det.reporting.console import Console
from borrow_det.reporting.metric_writer import MetricWriter
from borrow_det.tasks.task import EvalSet, Task
from borrow_det.workdir import metadata


class RunLog:
    """Console, metrics.jsonl, TensorBoard and the report of one start of a run."""

    def __init__(self, config, workdir: paths.Path, task: Task):
        self._config = config
        self._workdir = workdir
        self._task = task
        self._console = Console(config.num_steps)
        self._writer = None

    def line(self, text: str) -> None:
        """Prints a line."""
        self._console.line(text)

    def begin(self, start: int, params: dict, train_split) -> None:
        """Opens the metrics of a run that goes on from step `start`.

        At step 0 leaves what does not change during a run, too.
        """
        self._writer = MetricWriter(self._workdir, resume_step=start)
        count = sum(x.size for x in jax.tree.leaves(params))
        self.line(
            f"{count:,} parameters, {len(train_split):,} training images, "
            f"{jax.device_count()} device(s), work directory {self._workdir}"
        )
        if start:
            return
        overview = parameter_overview.get_parameter_overview(
            params, include_stats=False
        )
        paths.write_whole(self._workdir / "parameters.txt", overview + "\n")
        self._writer.write_hparams(self._config.to_dict())
        report.write_contact_sheet(self._task, train_split, self._config, self._workdir)

    def training(self, step: int, means: Mapping[str, float]) -> None:
        """Shows and writes the metrics of the steps since the last line."""
        self._writer.write_scalars(step, means)
        self._console.metrics(step, means)

    def evaluation(
        self,
        step: int,
        split,
        metrics: Mapping[str, float],
        pictures: Sequence[np.ndarray],
    ) -> None:
        """Shows and writes an evaluation of a split."""
        folder = metadata.folder_name(split.name)
        self._write_under(folder, step, metrics)
        for i, picture in enumerate(pictures):
            self._writer.write_images(step, {f"{folder}/{i}": picture[None]})
        self._console.evaluation(step, split, metrics, self._task.figures.console)

    def comparison(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes what splits give together, where there is anything."""
        if metrics:
            self._write_under(evaluate.COMPARISON, step, metrics)

    def _write_under(self, prefix, step, metrics):
        named = {f"{prefix}/{name}": value for name, value in metrics.items()}
        self._writer.write_scalars(step, named)

    def flush(self) -> None:
        """Brings the metrics to their files."""
        self._writer.flush()

    def advance(self, step: int) -> None:
        """Moves the progress bar."""
        self._console.advance(step)

    def report(
        self,
        eval_sets: Sequence[EvalSet],
        metrics: Mapping[str, Mapping[str, float]],
        compared: Mapping[str, float],
    ) -> None:
        """Writes the report of a finished run, and prints it."""
        self._writer.flush()
        self._console.finish()
        splits = [eval_set.split for eval_set in eval_sets]
        print(report.write_report(self._task, self._workdir, splits, metrics, compared))

    def close(self) -> None:
        """Brings everything to the files."""
        self._console.finish()
        if self._writer:
            self._writer.close()


class SilentLog:
    """The log of the other processes: it takes everything and leaves nothing."""

    def __getattr__(self, name):
        return lambda *_, **__: None
