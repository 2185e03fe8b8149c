"""What all benchmarks share: their flags, and the machine that they run on."""

import contextlib
import os
import platform
from collections.abc import Iterator, Sequence
from importlib import metadata

import jax
import torch
import torch._dynamo
from absl import flags

from benchmarks.rows import Rows, opened
from borrow_det.errors import InputError
from borrow_det.tools.common import cli

DEVICES = ("cpu", "gpu")


def make_flags(
    modes: Sequence[str], batches: Sequence[int], rounds: int
) -> flags.FlagValues:
    """The flags of a benchmark.

    Args:
      modes: kinds of work that it has rows of.
      batches: the default of --batches.
      rounds: the default of --rounds.
    """
    values = flags.FlagValues()
    text = {"flag_values": values}
    flags.DEFINE_enum("device", "cpu", DEVICES, "Where both sides run.", **text)
    flags.DEFINE_multi_enum("mode", list(modes), modes, "The work; repeat it.", **text)
    numbers = [str(batch) for batch in batches]
    flags.DEFINE_list("batches", numbers, "Images a call.", **text)
    flags.DEFINE_list("rows", [], "Shell patterns of rows, NAME,…; all.", **text)
    flags.DEFINE_integer("rounds", rounds, "Timings of each call.", 1, **text)
    flags.DEFINE_float("budget", 0.0, "Seconds until the last row begins.", 0, **text)
    flags.DEFINE_integer("threads", 2, "On a CPU, of both sides.", 1, **text)
    flags.DEFINE_string("output", None, "A file for the JSON lines, too.", **text)
    return values


def parse(values: flags.FlagValues, argv: Sequence[str], description: str) -> None:
    """Parses the command line into `values`; --batches becomes integers.

    Raises:
      InputError: it is wrong.
    """
    surplus = cli.parse(values, argv, description)
    if surplus:
        raise InputError(f"unexpected argument {surplus[0]!r}")
    if not all(text.isdigit() and int(text) for text in values.batches):
        raise InputError(f"--batches={','.join(values.batches)} must be numbers")
    values.batches = [int(text) for text in values.batches]


@contextlib.contextmanager
def started(values: flags.FlagValues) -> Iterator[Rows]:
    """Makes the device ready for both sides, and the rows' place.

    The first object that is printed says what the machine is.

    Raises:
      InputError: the device that --device names is not there.
    """
    # Both sides allocate from one GPU: neither may take it all beforehand.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    device = _start_cpu(values.threads) if values.device == "cpu" else _start_gpu()
    # One program for each model and batch: none may count as too many.
    torch._dynamo.config.recompile_limit = 64
    with opened(values.output) as file:
        rows = Rows(file, values.rows, values.budget)
        rows.put(
            {
                "device": device,
                "versions": _versions(),
                "flags": {
                    name: values[name].value
                    for name in values
                    if name not in ("help", "output")
                },
            }
        )
        yield rows


def _start_cpu(threads):
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < threads:
        raise InputError(f"--threads={threads}: this process has {len(cores)} cores")
    # XLA makes as many threads as the process has cores.
    os.sched_setaffinity(0, cores[:threads])
    jax.config.update("jax_platforms", "cpu")
    torch.set_num_threads(threads)
    return f"{platform.processor() or platform.machine()}, {threads} threads"


def _start_gpu():
    jax.config.update("jax_platforms", "cuda,cpu")
    try:
        device = jax.devices()[0]
    except RuntimeError as error:
        raise InputError(f"--device=gpu: JAX sees no GPU: {error}") from error
    # As JAX has it: float32 products by the matrix units, in TF32.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    return device.device_kind


def _versions():
    names = ("jax", "flax", "torch", "torchvision", "numpy")
    return {name: metadata.version(name) for name in names}
