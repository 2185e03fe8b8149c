"""The log of a run: console, metrics and report, written by the main process."""

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import ml_collections
import numpy as np
from clu import parameter_overview

from borrow_det import evaluate
from borrow_det.io import paths
from borrow_det.ops import subtrees
from borrow_det.reporting import devices, evaluation_plots, loggers, report, tags
from borrow_det.reporting.console import Console
from borrow_det.reporting.metric_writer import MetricWriter, plain_settings
from borrow_det.reporting.results_page import page as results_page
from borrow_det.tasks.task import Evaluator
from borrow_det.workdir import metadata
from borrow_det.workdir.best import Best


class RunLog:
    """Console, metrics.jsonl, TensorBoard and the report of one start of a run."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: paths.Path,
        evaluators: Sequence[Evaluator],
    ):
        """Prints and opens nothing yet.

        Args:
          config: the run's configuration.
          workdir: its work directory.
          evaluators: the evaluators of its evaluation splits, at least one.
        """
        self._config = config
        self._workdir = workdir
        self._evaluators = evaluators
        self._figures = evaluators[0].figures
        self._console = Console(config.num_steps, on_cpu=jax.default_backend() == "cpu")
        self._writer: MetricWriter | None = None
        self._finished = False

    def line(self, text: str) -> None:
        """Prints a line."""
        self._console.line(text)

    def begin(
        self, start: int, params: dict, frozen: Collection[str], train_split: Any
    ) -> None:
        """Opens the metrics of a run that starts or resumes at step `start`.

        At step 0 it also writes the files that do not change during a run.

        Args:
          start: the number of steps so far.
          params: the parameters.
          frozen: paths of the modules whose parameters are constants.
          train_split: the training split.
        """
        opened = loggers.open_loggers(
            self._config.report.loggers,
            self._workdir,
            plain_settings(self._config.to_dict()),
            resumes=start > 0,
            warn=self.line,
        )
        self._writer = MetricWriter(self._workdir, start, opened)
        trainable, constant = (
            sum(x.size for x in jax.tree.leaves(part))
            for part in subtrees.split(params, frozen)
        )
        count = f"{trainable + constant:,} parameters"
        if frozen:
            count += f" ({trainable:,} trainable, {constant:,} constant)"
        self.line(
            f"{count}, {len(train_split):,} training images, "
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
            self._evaluators[0],
            train_split,
            self._config.report.contact_sheet,
            self._workdir,
            self._config.seed,
        )

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

    def training(self, step: int, means: Mapping[str, float]) -> None:
        """Shows and writes the mean metrics of the steps since the last call."""
        self._opened.write_scalars(step, means, tags.training_tag)
        self._console.metrics(step, means)

    def evaluating(self, split: Any) -> AbstractContextManager[Callable[[int], None]]:
        """Returns a context of the evaluation of a split.

        It yields a function to call with the number of images that are done so far.
        """
        return self._console.evaluating(f"{split.dataset} {split.name}", len(split))

    def evaluation(
        self,
        step: int,
        split: Any,
        metrics: Mapping[str, float],
        pictures: Sequence[np.ndarray],
    ) -> None:
        """Shows and writes the evaluation of a split."""
        folder = metadata.folder_name(split.name)
        self._write_under(folder, step, metrics)
        self._opened.write_images(
            step,
            {tags.evaluation_tag(f"{folder}/{i}"): p for i, p in enumerate(pictures)},
        )
        name = f"{split.dataset} {split.name}"
        self._console.evaluation(step, name, metrics, self._figures.console)

    def evaluated_before(
        self, step: int, split: Any, metrics: Mapping[str, float]
    ) -> None:
        """Writes the evaluation of an earlier start that was killed before it did."""
        folder = metadata.folder_name(split.name)
        if not self._opened.resumes_with(f"{folder}/"):
            self._write_under(folder, step, metrics)

    def best(self, best: Best | None) -> None:
        """Shows that the latest evaluation is the best one."""
        assert best is not None, "the main process knows it"
        self.line(
            f"step {best.step} is the best so far: {best.metric} {best.value:.4f} on "
            f"{best.split}"
        )

    def comparison(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the metrics that compare splits, unless there are none."""
        if metrics:
            self._write_under(evaluate.COMPARISON, step, metrics)

    def flush(self) -> None:
        """Writes buffered metrics to their files."""
        self._opened.flush()

    def report(
        self,
        step: int,
        metrics: Mapping[str, Mapping[str, float]],
        compared: Mapping[str, float],
        best: Best | None,
    ) -> None:
        """Writes and prints the report of a finished run, and its results pages.

        Args:
          step: the last step.
          metrics: the last metrics of each evaluation split.
          compared: the last metrics that compare splits, by `SPLIT/NAME`.
          best: the best evaluation, if the run chooses one.
        """
        self._opened.flush()
        self._console.finish()
        if self._config.report.curves:
            for evaluator in self._evaluators:
                split = evaluator.split
                for shown in {step, best.step if best else step}:
                    path = evaluate.metrics_path(self._workdir, split.name, shown)
                    evaluation_plots.write(path, split)
        results_page.write_run(
            self._evaluators,
            self._workdir,
            step,
            metrics,
            compared,
            best.step if best else step,
        )
        self.line(
            report.write_report(
                self._evaluators,
                self._workdir,
                metrics,
                compared,
                {name: self._analysis(name, step) for name in metrics},
                best,
                with_curves=self._config.report.curves,
            )
        )
        self._finished = True

    def _analysis(self, split: str, step: int) -> dict[str, Any]:
        path = evaluate.metrics_path(self._workdir, split, step)
        return evaluate.read_analysis(path)

    def close(self) -> None:
        """Writes everything to the files and closes them."""
        self._console.finish()
        if self._writer:
            self._writer.close(self._finished)

    @property
    def _opened(self) -> MetricWriter:
        assert self._writer is not None, "begin comes first"
        return self._writer

    def _write_under(
        self, prefix: str, step: int, metrics: Mapping[str, float]
    ) -> None:
        named = {f"{prefix}/{name}": value for name, value in metrics.items()}
        self._opened.write_scalars(step, named, tags.evaluation_tag)


class SilentLog:
    """The log of the other processes: it has RunLog's methods and writes nothing."""

    def evaluating(self, split: Any) -> AbstractContextManager[Callable[[int], None]]:
        """Returns a context that yields a function without effect."""
        return contextlib.nullcontext(lambda _: None)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None
