"""Programs that are compiled in parallel, since each may take minutes."""

import threading
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any


class ProgramPool:
    """Programs of a benchmark's rows, made by threads before the rows are timed.

    Rows are timed only while no program is being made, since XLA tries kernels on the
    GPU.
    """

    def __init__(self, threads: int) -> None:
        """Starts a pool of this number of threads."""
        self._pool = futures.ThreadPoolExecutor(threads)
        self._made: dict[str, futures.Future] = {}

    def begin(self, makers: Mapping[str, Callable[[], Any]]) -> None:
        """Starts making programs, by name, in this order."""
        for name, make in makers.items():
            if name not in self._made:
                self._made[name] = self._pool.submit(make)

    def wait(self, seconds: float | None) -> None:
        """Waits until all started programs are made, or for `seconds` if not None."""
        timeout = None if seconds is None else max(0.0, seconds)
        futures.wait(self._made.values(), timeout=timeout)

    @property
    def unfinished(self) -> int:
        """Number of programs that are not made yet."""
        return sum(not future.done() for future in self._made.values())

    def __getitem__(self, name: str) -> Any:
        """Returns a program, or raises the error with which making it failed.

        Raises:
          TimeoutError: the program is not made yet.
        """
        try:
            return self._made[name].result(timeout=0)
        except futures.TimeoutError:
            raise TimeoutError(f"{name} was not made in time") from None

    def drop(self) -> None:
        """Drops finished programs and the device memory that they hold."""
        self._made = {n: f for n, f in self._made.items() if not f.done()}

    def cancel(self) -> None:
        """Starts no more programs."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Once:
    """Value that several programs need, computed by the first thread that uses it."""

    def __init__(self, compute: Callable[[], Any]) -> None:
        self._compute = compute
        self._lock = threading.Lock()
        self._values: list[Any] = []

    def __call__(self) -> Any:
        """Returns the value."""
        with self._lock:
            if not self._values:
                self._values.append(self._compute())
            return self._values[0]
