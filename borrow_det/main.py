"""Trains a detector and evaluates it.

  python -m borrow_det.main --config=CONFIG --workdir=DIR [--config.field=value ...]

CONFIG is the name of a packaged config or the path of a Python file, with arguments
after a colon: quickstart, folder:path=DIR, configs/folder.py:path=DIR.
Started again with the same work directory, the run resumes at its latest checkpoint.

Exit status: 0 when the run is complete; 1 if the loss is not finite, or for a bug; 2
for wrong input; 75 after SIGTERM or Ctrl-C, with a checkpoint saved; 130 after Ctrl-C
before the first step, or a second Ctrl-C.
"""

import errno
import functools
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    # An exception could get lost in the modules that are imported: Ctrl-C just ends
    # the process until `run` takes it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import jax
import ml_collections
from absl import app, flags, logging

from borrow_det import train
from borrow_det.config import command_line, packaged, path_flags
from borrow_det.distributed import preemption, processes
from borrow_det.errors import InputError, PreemptedError
from borrow_det.io import streams

_CONFIG = packaged.define_config("config", packaged.HELP)
_WORKDIR = path_flags.define_path(
    "workdir", None, "Work directory of the run; a local folder or gs://BUCKET/FOLDER."
)
_PROFILE = flags.DEFINE_string(
    "profile",
    "",
    "Training steps to trace to WORKDIR/profile: a number of steps or FIRST:LAST.",
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Run as one of several processes that the cluster starts."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address",
    None,
    "HOST:PORT of process 0 (default: given by the cluster).",
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Number of processes; goes with --coordinator_address."
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Index of this process; goes with --coordinator_address."
)
flags.mark_flags_as_required(["config", "workdir"])
TrainRun = Callable[[ml_collections.ConfigDict, str, str], Any]
# EX_TEMPFAIL of sysexits.h: cluster managers start such a run again.
_PREEMPTED = 75


def main(arguments: list[str], train_run: TrainRun | None = None) -> None:
    """Trains and evaluates; expected failures end in one line and an exit status.

    Args:
      arguments: the words of the command line that are not flags.
      train_run: trains in place of `train.train_and_evaluate`; see there.
    """
    if len(arguments) > 1:
        _refuse(f"unknown arguments: {' '.join(arguments[1:])}")
    logging.set_verbosity(logging.WARNING)
    try:
        _join()
        config = command_line.resolved(flags.FLAGS[_CONFIG.name])
        workdir = str(_WORKDIR.value)  # Required, hence not None.
        (train_run or train.train_and_evaluate)(config, workdir, _PROFILE.value)
    except PreemptedError:
        message = f"preempted; start again to resume in {_WORKDIR.value}"
        print(message, file=sys.stderr)
        sys.exit(_PREEMPTED)
    except Exception as error:
        if fault := _fault(error):
            _refuse(*fault)
        # The interpreter's own end would wait for the other processes.
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        processes.leave(1, cause_unknown=True)


def _fault(error: Exception) -> tuple[str, int] | None:
    """Returns (message, exit status) of an expected error, else None."""
    if isinstance(error, InputError):
        return str(error), 2
    if isinstance(error, FloatingPointError):
        return str(error), 1
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error}: make room there and start again", 2
    return None


def _join() -> None:
    explicit = _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    if _DISTRIBUTED.value or any(value is not None for value in explicit):
        processes.initialize(*explicit)


def run(train_run: TrainRun | None = None, description: str = __doc__ or "") -> None:
    """Runs the program on `sys.argv`.

    Args:
      train_run: see `main`.
      description: text of --help before the flags.
    """
    streams.prepare()
    # A background job of a script ignores Ctrl-C.
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupted)
    app.run(
        functools.partial(main, train_run=train_run),
        flags_parser=functools.partial(parse_flags, description=description),
    )


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:
    """Ends the process on Ctrl-C before the training loop, which has its own handler.

    An exception could get lost in a callback, and a thread of JAX that still compiles
    would crash the interpreter's own end.
    """
    del number, frame
    print("error: interrupted before the first step", file=sys.stderr)
    processes.end(preemption.INTERRUPTED)


def parse_flags(argv: list[str], description: str = __doc__ or "") -> list[str]:
    """Parses the command line; mistakes end in one line and exit status 2."""
    if command_line.asks_for_help(argv):
        holders: tuple[flags.FlagHolder, ...] = (
            *(_CONFIG, _WORKDIR, _PROFILE),
            *(_DISTRIBUTED, _COORDINATOR, _NUM_PROCESSES, _PROCESS_ID),
        )
        own = [flags.FLAGS[holder.name] for holder in holders]
        print(command_line.help_text(description, own))
        sys.exit(0)
    try:
        return command_line.parse(flags.FLAGS, argv)
    except InputError as error:
        _refuse(str(error))


def _refuse(message: str, status: int = 2) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    processes.leave(status)


if __name__ == "__main__":
    run()
