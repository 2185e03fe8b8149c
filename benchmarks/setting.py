"""Flags and device settings that the benchmarks share."""

import contextlib
import os
import platform
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

import jax
import torch
import torch._dynamo
from absl import flags

from benchmarks.rows import RowWriter, define_row_flags, opened
from borrow_det.errors import InputError
from borrow_det.tools.common import cli

DEVICES = ("cpu", "gpu")


def make_flags(
    modes: Sequence[str], batches: Sequence[int], rounds: int
) -> flags.FlagValues:
    """Returns the flags of a benchmark.

    Args:
      modes: kinds of work that have rows.
      batches: default of --batches.
      rounds: default of --rounds.
    """
    values = flags.FlagValues()
    text: Any = {"flag_values": values}
    flags.DEFINE_enum(
        "device", "cpu", DEVICES, "Device of both sides: cpu or gpu.", **text
    )
    flags.DEFINE_multi_enum(
        "mode", list(modes), modes, "Kind of work; repeat it for several.", **text
    )
    numbers = [str(batch) for batch in batches]
    flags.DEFINE_list("batches", numbers, "Numbers of images per call.", **text)
    flags.DEFINE_integer(
        "threads", 2, "Number of threads of each side on a CPU.", 1, **text
    )
    define_row_flags(values, rounds)
    return values


def parse(values: flags.FlagValues, argv: Sequence[str], description: str) -> None:
    """Parses the command line into `values`; --batches becomes integers.

    Raises:
      InputError: the command line is wrong.
    """
    cli.refuse_arguments(cli.parse(values, argv, description))
    if not all(text.isdigit() and int(text) for text in values.batches):
        raise InputError(
            f"--batches={','.join(values.batches)} must be positive integers"
        )
    values.batches = [int(text) for text in values.batches]


@contextlib.contextmanager
def started(values: flags.FlagValues) -> Iterator[RowWriter]:
    """Prepares the device for both sides and yields the writer of rows.

    The first object that is printed describes the machine.

    Raises:
      InputError: the device of --device is absent.
    """
    # Both sides share one GPU, so neither may preallocate its memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    device = _start_cpu(values.threads) if values.device == "cpu" else _start_gpu()
    # There is one program per model and batch; keep all of them.
    torch._dynamo.config.recompile_limit = 64
    with opened(values.output) as file:
        rows = RowWriter(file, values.rows, values.budget)
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


def _start_cpu(threads: int) -> str:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < threads:
        raise InputError(f"--threads={threads}: this process has {len(cores)} cores")
    # XLA starts one thread per core of the process.
    os.sched_setaffinity(0, cores[:threads])
    jax.config.update("jax_platforms", "cpu")
    torch.set_num_threads(threads)
    return f"{platform.processor() or platform.machine()}, {threads} threads"


def _start_gpu() -> str:
    jax.config.update("jax_platforms", "cuda,cpu")
    try:
        device = jax.devices()[0]
    except RuntimeError as error:
        raise InputError(f"--device=gpu: JAX sees no GPU: {error}") from error
    # As in JAX, float32 products use TF32.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    return device.device_kind


def _versions() -> dict[str, str]:
    names = ("jax", "flax", "torch", "torchvision", "numpy")
    return {name: metadata.version(name) for name in names}
