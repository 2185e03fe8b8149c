"""The processes of a run: joining, exchanging arrays, leaving."""

import contextlib
import multiprocessing
import os
import sys
import time
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from borrow_det.errors import InputError

# A process without a heartbeat for this time is dead: JAX then ends the others with
# SIGABRT.
HEARTBEAT_SECONDS = 30
# The other processes end with the main process, which serves them; it gives them this
# time to print their messages.
_GRACE_SECONDS = 3


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the processes of a run; must precede every other use of JAX.

    Args:
      coordinator_address: HOST:PORT of process 0.
      num_processes: number of processes of the run.
      process_id: index of this process.

    Without arguments all three come from the cluster (TPU pods, Slurm, GKE, Open MPI).

    Raises:
      InputError: some of the arguments are missing, or no cluster is found.
    """
    given = (coordinator_address, num_processes, process_id)
    if any(g is not None for g in given) and any(g is None for g in given):
        raise InputError(
            "--coordinator_address, --num_processes and --process_id go together"
        )
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            # All of them: simulated devices, or those that are visible.
            local_device_ids=None,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except ValueError as error:  # Wrong arguments; other errors are failures.
        raise InputError(
            f"--distributed: {error} No TPU pod, Slurm, GKE or Open MPI gives it: set "
            "--coordinator_address=HOST:PORT, --num_processes and --process_id"
        ) from error


def leave(status: int, cause_unknown: bool = False) -> NoReturn:
    """Ends this process with a status that is not 0.

    One of several processes ends without the usual farewell, which waits minutes for
    the others.

    Args:
      status: the exit status.
      cause_unknown: whether another process may have died, so that this one has seen
        only the consequence: it then waits to be ended for that.
    """
    if not jax.distributed.is_initialized():
        sys.exit(status)
    sys.stdout.flush()
    sys.stderr.flush()
    if cause_unknown:
        time.sleep(1.5 * HEARTBEAT_SECONDS)
    if jax.process_index() == 0:
        time.sleep(_GRACE_SECONDS)
    end(status)


def end(status: int) -> NoReturn:
    """Ends this process at once, and the worker processes that it has started.

    The interpreter's own end would crash if a thread of JAX still compiled or computed.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # Closed, or a broken pipe.
            stream.flush()
    for worker in multiprocessing.active_children():
        worker.terminate()
    os._exit(status)


def all_rows(rows: np.ndarray) -> np.ndarray:
    """Gathers the rows of a global batch, in order, from the rows of each process."""
    if jax.process_count() == 1:
        return rows
    # As bytes: JAX would truncate 64-bit integers to 32 bits.
    raw = np.ascontiguousarray(rows).view(np.uint8)
    gathered = multihost_utils.process_allgather(raw, tiled=True)
    return np.asarray(gathered).view(rows.dtype)


def is_main_process() -> bool:
    """Returns whether this is the process that prints and writes."""
    return jax.process_index() == 0


def from_main_process(value: Any) -> Any:
    """Broadcasts the main process's value, a tree of numbers or arrays, to all.

    The other processes pass a tree of the same structure and shapes.
    """
    return multihost_utils.broadcast_one_to_all(value)
