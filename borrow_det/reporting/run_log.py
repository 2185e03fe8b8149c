"""The log of a run: console, metrics and report, written by the main process."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import jax
import numpy as np
from clu import parameter_overview

from borrow_det import evaluate
from borrow_det.data.sources import Split
from borrow_det.io import paths
from borrow_det.reporting import devices, report
from borrow_det.reporting.console import Console
from borrow_det.reporting.metric_writer import MetricWriter
from borrow_det.tasks.task import Evaluator
from borrow_det.workdir import metadata


class RunLog:
    """Console, metrics.jsonl, TensorBoard and the report of one start of a run."""

    def __init__(self, config, workdir: paths.Path, evaluators: Sequence[Evaluator]):
        self._config = config
        self._workdir = workdir
        self._evaluators = evaluators
        self._console = Console(config.num_steps, on_cpu=jax.default_backend() == "cpu")
        self._writer = None

    def line(self, text: str) -> None:
        """Prints a line."""
        self._console.line(text)

    def begin(self, start: int, params: dict, train_split) -> None:
        """Opens the metrics of a run that starts or resumes at step `start`.

        At step 0 it also writes the files that do not change during a run.
        """
        self._writer = MetricWriter(self._workdir, resume_step=start)
        count = sum(x.size for x in jax.tree.leaves(params))
        self.line(
            f"{count:,} parameters, {len(train_split):,} training images, "
            f"{devices.describe()}, work directory {self._workdir}"
        )
        if unused := devices.unused_accelerator():
            self.line(unused)
        if start:
            return
        overview = parameter_overview.get_parameter_overview(
            params, include_stats=False
        )
        paths.write_whole(self._workdir / "parameters.txt", overview + "\n")
        self._writer.write_hparams(self._config.to_dict())
        report.write_contact_sheet(
            self._evaluators[0], train_split, self._config, self._workdir
        )

    def training(self, step: int, means: Mapping[str, float]) -> None:
        """Shows and writes the mean metrics of the steps since the last call."""
        self._writer.write_scalars(step, means)
        self._console.metrics(step, means)

    def evaluation(
        self,
        step: int,
        split,
        metrics: Mapping[str, float],
        pictures: Sequence[np.ndarray],
    ) -> None:
        """Shows and writes the evaluation of a split."""
        folder = metadata.folder_name(split.name)
        self._write_under(folder, step, metrics)
        for i, picture in enumerate(pictures):
            self._writer.write_images(step, {f"{folder}/{i}": picture[None]})
        name = f"{split.dataset} {split.name}"
        self._console.evaluation(step, name, metrics, self._evaluators[0].figures.console)

    def comparison(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the metrics that compare splits, if there are any."""
        if metrics:
            self._write_under(evaluate.COMPARISON, step, metrics)

    def _write_under(self, prefix, step, metrics):
        named = {f"{prefix}/{name}": value for name, value in metrics.items()}
        self._writer.write_scalars(step, named)

    def flush(self) -> None:
        """Writes buffered metrics to their files."""
        self._writer.flush()

    def compiling(self, step: int) -> None:
        """Announces the first training step of this start, after `step` steps."""
        self._console.begin(step)

    def advance(self, step: int) -> None:
        """Moves the progress bar."""
        self._console.advance(step)

    def finished(self, metrics: Mapping[str, jax.Array]) -> None:
        """Shows the loss of a step.

        Args:
          metrics: metrics of a step that the devices have finished: reading them must
            not wait for a step that still runs.
        """
        self._console.loss(lambda: float(jax.device_get(metrics["loss"])))

    def evaluating(self, split: Split) -> AbstractContextManager[Callable[[int], None]]:
        """Returns a context of an evaluation.

        It yields a function to call with the number of images that are done so far.
        """
        return self._console.evaluating(f"{split.dataset} {split.name}", len(split))

    def report(
        self,
        metrics: Mapping[str, Mapping[str, float]],
        compared: Mapping[str, float],
    ) -> None:
        """Writes and prints the report of a finished run."""
        self._writer.flush()
        self._console.finish()
        print(
            report.write_report(self._evaluators, self._workdir, metrics, compared)
        )

    def close(self) -> None:
        """Writes everything to the files and closes them."""
        self._console.finish()
        if self._writer:
            self._writer.close()


class SilentLog:
    """The log of the other processes: it has RunLog's methods and writes nothing."""

    def evaluating(self, split: Split) -> AbstractContextManager[Callable[[int], None]]:
        """Returns a context that yields a function without effect."""
        return contextlib.nullcontext(lambda _: None)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None
