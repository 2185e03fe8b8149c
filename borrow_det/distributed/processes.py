"""Several processes: how they find each other, and how one leaves the others."""

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

# A process of which nothing was heard for so long is dead: JAX then ends the others
# with SIGABRT.
HEARTBEAT_SECONDS = 30
# The others live no longer than the main process, which serves them; it lets them say
# what they have to say.
_GRACE_SECONDS = 3


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the processes of a run; comes before everything else that JAX does.

    Without arguments they are what the cluster says (TPU pods, Slurm, GKE, Open MPI).

    Raises:
      InputError: some of the three are missing, or no cluster gives them.
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
            # As many as there are: simulated ones, or those the process may see.
            local_device_ids=None,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except ValueError as error:  # What it says of arguments; others are failures.
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
    """The rows of a batch of all processes, in order, from each process' own."""
    if jax.process_count() == 1:
        return rows
    # As bytes: JAX would cut 64-bit integers to 32 bits.
    raw = np.ascontiguousarray(rows).view(np.uint8)
    gathered = multihost_utils.process_allgather(raw, tiled=True)
    return np.asarray(gathered).view(rows.dtype)


def is_main_process() -> bool:
    """Whether this process is the one that prints and writes."""
    return jax.process_index() == 0


def from_main_process(value: Any) -> Any:
    """What the main process has, numbers or arrays of equal shapes, in all of them."""
    return multihost_utils.broadcast_one_to_all(value)


def wait_for_all(what: str) -> None:
    """Returns when every process has come here."""
    multihost_utils.sync_global_devices(what)
