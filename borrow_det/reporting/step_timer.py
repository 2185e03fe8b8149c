"""Where a run's time and memory go, between two lines of its metrics."""

import contextlib
import time
from collections.abc import Iterator

import jax


class StepTimer:
    """Times training steps; what is not training is left out by `paused`."""

    def __init__(self):
        self._start_window()

    def _start_window(self):
        self._start = time.monotonic()
        self._waited = self._paused = 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what waits for the next batch, and sends it to the devices."""
        before = time.monotonic()
        yield
        self._waited += time.monotonic() - before

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Around what is no training: an evaluation."""
        before = time.monotonic()
        yield
        self._paused += time.monotonic() - before

    def metrics(self, steps: int, batch_size: int) -> dict[str, float]:
        """Of the `steps` steps since the last call.

        `step_time` in seconds, `images_per_second` of all devices together, and
        `data_wait`, the share of the time that the loop stood waiting for a batch or
        sent it off. As the device has work left meanwhile, it may have waited less.
        """
        elapsed = max(time.monotonic() - self._start - self._paused, 1e-9)
        metrics = {
            "step_time": elapsed / steps,
            "images_per_second": steps * batch_size / elapsed,
            "data_wait": self._waited / elapsed,
        }
        self._start_window()
        return metrics


def memory_metrics() -> dict[str, float]:
    """Most bytes in use so far by this process and by the fullest of its devices.

    `memory/device` where the backend tells (a CPU's arrays are the process' own).
    """
    # getrusage's peak is at least that of the process which started this one.
    with open("/proc/self/status", encoding="ascii") as status:
        fields = dict(line.split(":", 1) for line in status)
    metrics = {
        name: 1024.0 * int(fields[field].split()[0])  # Linux counts in KiB.
        for name, field in (("memory/host", "VmRSS"), ("memory/host_peak", "VmHWM"))
    }
    stats = [device.memory_stats() for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if s and "peak_bytes_in_use" in s]
    if peaks:
        metrics["memory/device_peak"] = float(max(peaks))
    return metrics
