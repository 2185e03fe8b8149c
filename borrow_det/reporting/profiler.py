"""Traces some training steps for TensorBoard's profiler and Perfetto."""

import pathlib
import re
import shutil
import tempfile
from typing import Any

import jax

from borrow_det.distributed import processes
from borrow_det.errors import InputError
from borrow_det.io import paths

# The first step of a start compiles, the second may still fill queues.
_WARM_UP = 2


class Profiler:
    """Traces steps `first` to `last` into a folder, in the main process."""

    def __init__(self, first: int, last: int, folder: paths.Path):
        self.first, self.last = first, last
        self._folder = folder
        self._local: str | None = None  # Local folder of a running trace.

    def before(self, step: int) -> None:
        """Starts the trace if `step` is the first."""
        if step == self.first and processes.is_main_process():
            # JAX could write to a bucket itself, but a failure would end the run.
            remote = paths.is_remote(self._folder)
            self._local = tempfile.mkdtemp() if remote else str(self._folder)
            jax.profiler.start_trace(self._local)

    def after(self, step: int, outputs: Any) -> None:
        """Ends the trace if `step` is the last, after its outputs are computed."""
        if step == self.last:
            jax.block_until_ready(outputs)
            self.close()

    def close(self) -> None:
        """Ends a running trace."""
        if self._local is None:
            return
        jax.profiler.stop_trace()
        if paths.is_remote(self._folder):
            written = pathlib.Path(self._local)
            for path in filter(pathlib.Path.is_file, written.rglob("*")):
                target = self._folder / path.relative_to(written).as_posix()
                paths.write_whole(target, path.read_bytes())
            shutil.rmtree(written)
        self._local = None


def make_profiler(text: str, start: int, workdir: paths.Path) -> Profiler:
    """Makes the profiler for a value of --profile; "" traces nothing.

    Raises:
      InputError: see `parse_steps`.
    """
    first, last = parse_steps(text, start) if text else (0, 0)
    return Profiler(first, last, workdir / "profile")


def parse_steps(text: str, start: int) -> tuple[int, int]:
    """Returns (first, last) for a value of --profile.

    Args:
      text: `N`, the number of steps to trace after the warm-up, or `FIRST:LAST`.
      start: the step at which the run starts or resumes.

    Raises:
      InputError: the value has neither form, or the steps are over already.
    """
    if re.fullmatch(r"\d+", text) and int(text):
        first = start + _WARM_UP + 1
        return first, first + int(text) - 1
    if not re.fullmatch(r"\d+:\d+", text):
        raise InputError(f"--profile={text}: give a number of steps or FIRST:LAST")
    first, last = map(int, text.split(":"))
    if not start < first <= last:
        raise InputError(
            f"--profile={text}: FIRST must be after step {start}, at which this run "
            "starts, and LAST must not be before FIRST"
        )
    return first, last
