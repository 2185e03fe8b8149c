"""Time and memory in a line of metrics."""

import ast
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from borrow_det.reporting import step_timer


def test_time_covers_the_steps_since_the_last_line(clock):
    timer = step_timer.StepTimer()
    for _ in range(4):
        with timer.waiting():
            clock(0.25)
        clock(0.75)
    assert timer.metrics(4, batch_size=6) == pytest.approx(
        {"step_time": 1.0, "images_per_second": 6.0, "data_wait": 0.25}
    )
    with timer.paused():
        clock(50)
    clock(3)
    assert timer.metrics(2, batch_size=6) == pytest.approx(
        {"step_time": 1.5, "images_per_second": 4.0, "data_wait": 0.0}
    )


def test_memory_follows_the_arrays_that_exist():
    before = step_timer.memory_metrics()
    held = np.ones(2**27, np.uint8)
    during = step_timer.memory_metrics()
    del held
    after = step_timer.memory_metrics()
    assert during["memory/host"] - before["memory/host"] > 2**26
    assert during["memory/host"] - after["memory/host"] > 2**26
    # The kernel updates both counters in batches.
    assert after["memory/host_peak"] > during["memory/host"] - 2**20


def test_the_peak_excludes_the_parent_process():
    held = np.ones(2**30, np.uint8)
    program = (
        "from borrow_det.reporting import step_timer\n"
        "print(step_timer.memory_metrics())"
    )
    root = pathlib.Path(__file__).resolve().parents[2]
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, check=True
    )
    assert ast.literal_eval(said.stdout.decode())["memory/host_peak"] < held.nbytes


def test_device_memory_is_that_of_the_fullest_device(monkeypatch):
    class Device:
        def __init__(self, stats):
            self.memory_stats = lambda: stats

    devices = [Device({"peak_bytes_in_use": n}) for n in (5, 9)]
    monkeypatch.setattr(step_timer.jax, "local_devices", lambda: devices)
    assert step_timer.memory_metrics()["memory/device_peak"] == 9
    monkeypatch.setattr(step_timer.jax, "local_devices", lambda: [Device(None)])
    assert "memory/device_peak" not in step_timer.memory_metrics()
