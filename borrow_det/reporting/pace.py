"""The time that a training step takes, and the time that a run still needs."""

import contextlib
import time
from collections.abc import Iterator

# The host is a few steps ahead of the devices: only after these steps does one step of
# the host follow one step of the devices. The first of them compiles.
_WARM_UP = 3
# An estimate needs that many further steps, or one step and this time in seconds.
_STEPS = 5
_SECONDS = 30.0


class Pace:
    """Estimates the time per step of one start of a run, without compilation.

    Attributes:
      seconds_per_step: the mean since the warm-up, or None as long as it is not
        reliable. Pauses (`paused`) do not count.
    """

    def __init__(self) -> None:
        self.seconds_per_step: float | None = None
        self._steps = 0
        self._since = 0.0
        self._paused = 0.0

    def step(self) -> None:
        """Notes that the host has finished with one more training step."""
        self._steps += 1
        if self._steps == _WARM_UP:
            self._since, self._paused = time.monotonic(), 0.0
        counted = self._steps - _WARM_UP
        if counted < 1:
            return
        elapsed = time.monotonic() - self._since - self._paused
        if self.seconds_per_step or counted >= _STEPS or elapsed >= _SECONDS:
            self.seconds_per_step = elapsed / counted

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time of a context, such as an evaluation."""
        before = time.monotonic()
        try:
            yield
        finally:
            self._paused += time.monotonic() - before


def duration(seconds: float) -> str:
    """Returns a rounded duration in words: "50 s", "12 min", "3 h 20 min"."""
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.2g} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h"
