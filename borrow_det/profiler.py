"""A trace of some training steps, for TensorBoard's profiler and Perfetto."""

import re
from typing import Any

import jax

from borrow_det.errors import InputError

# The first step of a start compiles, the second may still fill queues.
_WARM_UP = 2


class Profiler:
    """Traces steps `first` to `last` into a folder."""

    def __init__(self, first: int, last: int, folder: str):
        self.first, self.last = first, last
        self._folder = folder
        self._on = False

    def before(self, step: int) -> None:
        """Starts the trace where `step` is the first."""
        if step == self.first:
            jax.profiler.start_trace(self._folder)
            self._on = True

    def after(self, step: int, outputs: Any) -> None:
        """Ends the trace where `step` is the last, when its outputs are there."""
        if self._on and step == self.last:
            jax.block_until_ready(outputs)
            self.close()

    def close(self) -> None:
        """Ends a trace whose last step never came."""
        if self._on:
            jax.profiler.stop_trace()
            self._on = False


def parse_steps(text: str, start: int) -> tuple[int, int]:
    """(first, last) of `--profile`.

    Args:
      text: `N`, so many steps as soon as the program is warm, or `FIRST:LAST`.
      start: the step from which the run goes on.

    Raises:
      InputError: it is neither, or those steps are over.
    """
    if re.fullmatch(r"\d+", text) and int(text):
        first = start + _WARM_UP + 1
        return first, first + int(text) - 1
    if not re.fullmatch(r"\d+:\d+", text):
        raise InputError(f"--profile={text}: give N steps, or FIRST:LAST")
    first, last = map(int, text.split(":"))
    if not start < first <= last:
        raise InputError(
            f"--profile={text}: FIRST must lie after step {start}, from which this "
            "run goes on, and LAST not before FIRST"
        )
    return first, last
