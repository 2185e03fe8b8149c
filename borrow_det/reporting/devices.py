"""The devices of a run, in words, and accelerators that JAX does not use."""

import collections
import os
import pathlib
import shutil
import subprocess
from collections.abc import Mapping

import jax

_SECONDS_TO_ASK = 10.0
_TPU_VARIABLES = ("TPU_NAME", "TPU_WORKER_ID", "TPU_ACCELERATOR_TYPE")


def describe() -> str:
    """Returns the devices of all processes: "2 CPU cores", "1 x NVIDIA H100"."""
    devices = jax.devices()
    if jax.default_backend() == "cpu":
        # Processes on one machine share its cores.
        cores = len(os.sched_getaffinity(0))
        text = f"{cores} CPU core{'s' if cores > 1 else ''}"
        if len(devices) > 1:
            text += f" as {len(devices)} devices"
    else:
        kinds = collections.Counter(device.device_kind for device in devices)
        text = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
    if jax.process_count() > 1:
        text += f", {jax.process_count()} processes"
    return text


def unused_accelerator(
    environment: Mapping[str, str] = os.environ,
    root: pathlib.Path = pathlib.Path("/"),
) -> str | None:
    """Returns a sentence on an accelerator that JAX does not use, or None.

    JAX falls back to the CPU without an error if its package for the accelerator is
    not installed. A user who restricts JAX (JAX_PLATFORMS) or hides the GPUs
    (CUDA_VISIBLE_DEVICES) gets no sentence.

    Args:
      environment: variables of the process.
      root: root of the file system, in which device files are searched.
    """
    if jax.default_backend() != "cpu" or environment.get("JAX_PLATFORMS"):
        return None
    for name, extra, is_there in (
        ("an NVIDIA GPU", "gpu", _has_gpu(environment)),
        ("a TPU", "tpu", _has_tpu(environment, root)),
    ):
        if is_there:
            return (
                f"this machine has {name}, but JAX does not use it: "
                f"pip install 'borrow_det[{extra}]' "
                f"(in a checkout: pip install -r requirements-{extra}.txt)"
            )
    return None


def _has_gpu(environment: Mapping[str, str]) -> bool:
    hidden = environment.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    program = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if hidden or program is None:
        return False
    try:
        listed = subprocess.run(
            [program, "-L"],
            capture_output=True,
            text=True,
            timeout=_SECONDS_TO_ASK,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and "GPU " in listed.stdout


def _has_tpu(environment: Mapping[str, str], root: pathlib.Path) -> bool:
    files = [*root.glob("dev/accel[0-9]*"), *root.glob("dev/vfio/[0-9]*")]
    return bool(files) or any(name in environment for name in _TPU_VARIABLES)
