"""A trace of some training steps, for TensorBoard's profiler and Perfetto."""

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
        self._local = None  # Where the trace that is going on is written.

    def before(self, step: int) -> None:
        """Starts the trace where `step` is the first."""
        if step == self.first and processes.is_main_process():
            # JAX's own way to a bucket ends the run where that fails.
            remote = paths.is_remote(self._folder)
            self._local = tempfile.mkdtemp() if remote else str(self._folder)
            jax.profiler.start_trace(self._local)

    def after(self, step: int, outputs: Any) -> None:
        """Ends the trace where `step` is the last, when its outputs are there."""
        if step == self.last:
            jax.block_until_ready(outputs)
            self.close()

    def close(self) -> None:
        """Ends the trace, also one whose last step never came."""
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
    """What `--profile` asks for; "" asks for nothing.

    Raises:
      InputError: see `parse_steps`.
    """
    first, last = parse_steps(text, start) if text else (0, 0)
    return Profiler(first, last, workdir / "profile")


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
