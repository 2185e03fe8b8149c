"""Runs as separate processes, for the tests that stop or count processes."""

import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import numpy as np

from borrow_det import train_step
from borrow_det.distributed import mesh as mesh_lib
from borrow_det.tasks import TASKS
from borrow_det.workdir import checkpoints, metadata

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Metrics that depend on the machine.
MEASURED = (
    *("images_per_second", "step_time", "data_wait"),
    *("memory/host", "memory/host_peak"),
)
# No test waits longer for a process.
LIMIT = 240


def start(
    scenes,
    folder,
    *fields,
    processes=1,
    devices=1,
    record=None,
    pause=0.0,
    own_cache=False,
):
    """Starts a run of tests/tiny_config.py.

    Args:
      scenes: the folder of its images.
      folder: its work directory; what it prints goes to `FOLDER.log`.
      *fields: `name=value` of its config.
      processes: of the run.
      devices: simulated ones, of each process.
      record: a folder for tests/recorded_main.py.
      pause: seconds that each step is slowed down by.
      own_cache: whether it keeps its compiled programs itself, as outside of tests.

    Returns:
      The Popen of launch/local_processes.sh, or of the run itself if it is one process.
    """
    interpreter = folder.with_name(folder.name + ".python")
    recorder = ROOT / "tests" / "recorded_main.py"
    interpreter.write_text(f'#!/bin/sh\nexec {sys.executable} {recorder} "$@"\n')
    interpreter.chmod(0o755)
    arguments = [
        f"--config={ROOT}/tests/tiny_config.py:{scenes}",
        f"--workdir={folder}",
        *(f"--config.{field}" for field in fields),
    ]
    flags = "--xla_backend_optimization_level=0"
    environment = {
        **os.environ,
        "PYTHON": str(interpreter),
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "SECONDS_A_STEP": str(pause),
    }
    if not own_cache:
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "jax"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
    if record is not None:
        record.mkdir(exist_ok=True)
        environment["RECORD_TO"] = str(record)
    if processes == 1:
        flags += f" --xla_force_host_platform_device_count={devices}"
        command = [str(interpreter), "-m", "borrow_det.main", *arguments]
    else:
        script = str(ROOT / "launch" / "local_processes.sh")
        command = [script, str(processes), f"--devices={devices}", "--", *arguments]
    with _log(folder).open("a") as log:
        return subprocess.Popen(
            command,
            env=environment | {"XLA_FLAGS": flags},
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def finish(process, folder, status=0):
    """Waits for a run to end with a status; returns all that it has printed."""
    found = process.wait(timeout=LIMIT)
    text = printed(folder)
    assert found == status, text
    return text


def printed(folder):
    """All that the starts of a run have printed so far."""
    return _log(folder).read_text()


def _log(folder):
    return folder.with_name(folder.name + ".log")


def wait_for(condition, process):
    """Waits until something is true of a process that is running."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def last_step(folder):
    """Returns the step of the last complete line of metrics; -1 before the first."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else -1


def metrics(folder):
    """The lines of metrics.jsonl without what depends on the machine."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {n: v for n, v in json.loads(line).items() if n not in MEASURED}
        for line in lines
    ]


def state(folder, mesh=None):
    """Returns the state of the latest checkpoint, on the host, restored on `mesh`."""
    config = metadata.load_config(folder)
    task = TASKS[config.task](config, len(metadata.load_classes(folder)[0]))
    mesh = mesh or mesh_lib.make_mesh({"data": -1, "fsdp": 1})
    abstract = train_step.abstract_state(task, mesh)
    manager = checkpoints.Checkpoints(folder, every=1, keep=99)
    try:
        return jax.device_get(manager.restore(vars(abstract)))
    finally:
        manager.close()


def assert_same_run(found, expected):
    """Two finished work directories hold the same to the bit."""
    assert metrics(found) == metrics(expected)
    jax.tree.map(np.testing.assert_array_equal, state(found), state(expected))
    folders = [sorted((f / "evaluations").rglob("*.json")) for f in (found, expected)]
    names = [[p.name for p in paths] for paths in folders]
    assert names[0] == names[1] != []
    for a, b in zip(*folders, strict=True):
        assert a.read_bytes() == b.read_bytes(), a
