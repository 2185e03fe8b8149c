"""What a run prints: a progress bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Sequence

import tqdm

# Of a line's time: below it, faster loading would hardly be noticed.
_LONG_WAIT = 0.05


class Console:
    """Progress of a run of `num_steps` steps."""

    def __init__(self, num_steps: int):
        self._bar = tqdm.tqdm(
            total=num_steps,
            unit="step",
            disable=not sys.stdout.isatty(),
            file=sys.stdout,
        )
        self._num_steps = num_steps
        self._first = None  # (step, time) after the first step, which compiles.

    def line(self, text: str) -> None:
        """Prints a line above the bar."""
        with self._bar.external_write_mode(file=sys.stdout):
            print(text, flush=True)

    def advance(self, step: int) -> None:
        """Moves the bar to `step`."""
        if self._first is None:
            self._first = (step, time.monotonic())
        self._bar.update(step - self._bar.n)

    def metrics(self, step: int, means: dict[str, float]) -> None:
        """Shows training metrics."""
        losses = {n: v for n, v in means.items() if n.startswith("loss")}
        text = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
        if self._bar.disable:
            rate = means["images_per_second"]
            left = self._time_left(step)
            self.line(
                f"step {step}/{self._num_steps}  {text}  {rate:.1f} images/s"
                f"{_wait(means)}  {left}"
            )
        else:
            loss = f"loss {means['loss']:.4f}{_wait(means)}"
            self._bar.set_postfix_str(loss, refresh=False)

    def evaluation(
        self, step: int, split, metrics: dict[str, float], names: Sequence[str]
    ) -> None:
        """Shows those figures of an evaluation that are named, and there."""
        shown = [name for name in names if name in metrics]
        text = "  ".join(f"{name} {metrics[name]:.4f}" for name in shown)
        self.line(f"step {step}  {split.dataset} {split.name}: {text}")

    def finish(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()

    def _time_left(self, step):
        if self._first is None or step <= self._first[0]:
            return ""
        per_step = (time.monotonic() - self._first[1]) / (step - self._first[0])
        seconds = round(per_step * (self._num_steps - step))
        return f"{seconds // 60}:{seconds % 60:02d} left"


def _wait(means):
    """Says so where steps wait for their batches."""
    share = means["data_wait"]
    return f"  data_wait {share:.0%}" if share >= _LONG_WAIT else ""
