"""Time and memory of a run between two lines of its metrics."""

import contextlib
import time
from collections.abc import Iterator

import jax


class StepTimer:
    """Times training steps; `paused` excludes everything else."""

    def __init__(self) -> None:
        self._start_window()

    def _start_window(self) -> None:
        self._start = time.monotonic()
        self._waited = self._paused = 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Measures the wait for the next batch and its transfer to the devices."""
        before = time.monotonic()
        yield
        self._waited += time.monotonic() - before

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes a context that is not training, such as an evaluation."""
        before = time.monotonic()
        yield
        self._paused += time.monotonic() - before

    def metrics(self, steps: int, batch_size: int) -> dict[str, float]:
        """Returns the metrics of the `steps` steps since the last call.

        `step_time` is in seconds, `images_per_second` counts all devices together, and
        `data_wait` is the share of the time in which the loop waited for a batch or
        transferred it. The devices may have waited less: they had queued steps.
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
    """Returns the memory of this process and of the fullest of its devices, in bytes.

    `memory/host` is the current use and `memory/host_peak` the largest so far;
    `memory/device_peak` is absent for backends without statistics (arrays of a CPU
    belong to the process).
    """
    # The peak of getrusage includes the parent process.
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
