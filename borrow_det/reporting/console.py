"""The progress of a run: bars on a terminal, plain lines elsewhere."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TextIO

import tqdm

from borrow_det.reporting.pace import Pace, duration

# Below this share of a line's time, faster loading would hardly be noticed.
_LONG_WAIT = 0.05
# The loss in the bar is read again after this time; reading it costs microseconds.
_SECONDS_BETWEEN_LOSSES = 1.0
# Without a terminal, a long evaluation prints a line this often.
_SECONDS_BETWEEN_LINES = 30.0
_DAY = 24 * 3600.0


class Console:
    """Prints the progress of one start of a run."""

    def __init__(
        self, num_steps: int, on_cpu: bool = False, stream: TextIO | None = None
    ):
        """Prints nothing yet.

        Args:
          num_steps: the run's last step.
          on_cpu: whether it runs on a CPU, where a long run gets advice.
          stream: default: standard output.
        """
        self._stream = stream or sys.stdout
        self._num_steps = num_steps
        self._on_cpu = on_cpu
        self._terminal = self._stream.isatty() and _has_size(self._stream)
        self._bar = self._make_bar("step", 0, num_steps, disable=True)
        self._compiling = False
        self._pace = Pace()
        self._start: int | None = None
        self._estimated = False
        self._loss_time = -_SECONDS_BETWEEN_LOSSES
        self._wait = ""

    def line(self, text: str) -> None:
        """Prints a line, above the bars of a terminal."""
        with tqdm.tqdm.external_write_mode(file=self._stream):
            print(text, file=self._stream, flush=True)

    def begin(self, step: int) -> None:
        """Announces the first training step, which compiles, and shows the bar.

        Args:
          step: the number of steps that earlier starts have made.
        """
        self._start = step
        text = "compiling the training step"
        self._compiling = True
        self._bar = self._make_bar("step", step, self._num_steps, text)
        if not self._terminal:
            self.line(f"{text} ...")

    def advance(self, step: int) -> None:
        """Moves the bar to `step`, and estimates the run's time once."""
        if self._compiling:
            self._compiling = False
            self._bar.set_description_str("", refresh=False)
        self._bar.update(step - self._bar.n)
        self._pace.step()
        if self._pace.seconds_per_step and not self._estimated:
            self._estimated = True
            self._estimate(self._pace.seconds_per_step)

    def loss(self, read: Callable[[], float]) -> None:
        """Shows the loss of the latest finished step, at most once a second.

        Args:
          read: returns the loss without waiting for a step that still runs.
        """
        now = time.monotonic()
        if self._bar.disable or now - self._loss_time < _SECONDS_BETWEEN_LOSSES:
            return
        self._loss_time = now
        self._bar.set_postfix_str(f"loss {read():.4f}{self._wait}")

    def metrics(self, step: int, means: Mapping[str, float]) -> None:
        """Shows training metrics; on a terminal, `loss` shows their part in the bar."""
        self._wait = _wait(means)
        if not self._bar.disable:
            return
        losses = {n: v for n, v in means.items() if n.startswith("loss")}
        text = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
        rate = means["images_per_second"]
        self.line(
            f"step {step}/{self._num_steps}  {text}  {rate:.1f} images/s"
            f"{self._wait}  {self._time_left(step)}"
        )

    @contextlib.contextmanager
    def evaluating(self, name: str, images: int) -> Iterator[Callable[[int], None]]:
        """Shows the progress of an evaluation.

        Args:
          name: the split's.
          images: images of the split.

        Yields:
          A function to call with the number of images that are done so far.
        """
        text = f"evaluating {name}"
        if not self._terminal:
            self.line(f"{text}, {images:,} images ...")
        with self._pace.paused():
            bar = self._make_bar("image", 0, images, text)
            bar.leave = False
            shown = time.monotonic()

            def done(count: int) -> None:
                nonlocal shown
                bar.update(count - bar.n)
                now = time.monotonic()
                if bar.disable and now - shown >= _SECONDS_BETWEEN_LINES:
                    shown = now
                    self.line(f"{text}: {count:,}/{images:,} images")

            try:
                yield done
            finally:
                bar.close()

    def evaluation(
        self, step: int, name: str, metrics: Mapping[str, float], shown: Sequence[str]
    ) -> None:
        """Prints the metrics of an evaluation that are both present and in `shown`."""
        present = [metric for metric in shown if metric in metrics]
        text = "  ".join(f"{metric} {metrics[metric]:.4f}" for metric in present)
        self.line(f"step {step}  {name}: {text}")

    def finish(self) -> None:
        """Closes the bar and leaves it visible."""
        self._bar.close()

    def _make_bar(
        self,
        unit: str,
        initial: int,
        total: int,
        text: str = "",
        disable: bool = False,
    ) -> tqdm.tqdm:
        return tqdm.tqdm(
            desc=text,
            total=total,
            initial=initial,
            unit=unit,
            disable=disable or not self._terminal,
            file=self._stream,
        )

    def _estimate(self, per_step: float) -> None:
        assert self._start is not None
        steps = self._num_steps - self._start
        total = per_step * steps
        self.line(
            f"about {duration(total)} for {steps:,} steps, {duration(per_step)} per "
            "step (compilation and evaluations not included)"
        )
        if self._on_cpu and total > _DAY:
            self.line(
                "this config is for an accelerator; on a CPU, train "
                "--config=folder_narrow:path=DIR on your images, or "
                "--config=quickstart"
            )

    def _time_left(self, step: int) -> str:
        per_step = self._pace.seconds_per_step
        if per_step is None:
            return ""
        seconds = round(per_step * (self._num_steps - step))
        return f"{seconds // 60}:{seconds % 60:02d} left"


def _has_size(stream: TextIO) -> bool:
    """Returns false for a terminal of no size, on which bars would be invisible."""
    try:
        return min(os.get_terminal_size(stream.fileno())) > 0
    except OSError:
        return True


def _wait(means: Mapping[str, float]) -> str:
    """Returns a remark if steps wait long for their batches."""
    share = means["data_wait"]
    return f"  data_wait {share:.0%}" if share >= _LONG_WAIT else ""
