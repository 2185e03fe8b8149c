"""Programs that are made side by side, since compiling one takes up to minutes."""

import threading
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any


class Programs:
    """What a benchmark's rows run, made in threads ahead of them.

    Rows are timed only while nothing is being made: XLA tries kernels on the GPU.
    """

    def __init__(self, threads: int):
        """Keeps how many are made at a time."""
        self._pool = futures.ThreadPoolExecutor(threads)
        self._made: dict[str, futures.Future] = {}

    def begin(self, makers: Mapping[str, Callable[[], Any]]) -> None:
        """Begins to make these, by name, in this order."""
        for name, make in makers.items():
            if name not in self._made:
                self._made[name] = self._pool.submit(make)

    def wait(self, seconds: float | None) -> None:
        """Waits for all that were begun, at most so long; None: without end."""
        timeout = None if seconds is None else max(0.0, seconds)
        futures.wait(self._made.values(), timeout=timeout)

    @property
    def unfinished(self) -> int:
        """How many are not made yet."""
        return sum(not future.done() for future in self._made.values())

    def __getitem__(self, name: str) -> Any:
        """The program.

        Raises:
          TimeoutError: it is not made yet.
          Whatever making it raised.
        """
        try:
            return self._made[name].result(timeout=0)
        except futures.TimeoutError:
            raise TimeoutError(f"{name} was not made in time") from None

    def drop(self) -> None:
        """Forgets what is made, and the device memory that it holds."""
        self._made = {n: f for n, f in self._made.items() if not f.done()}

    def cancel(self) -> None:
        """Begins no more of them."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Once:
    """A value that several programs need, computed by the first thread that asks."""

    def __init__(self, compute: Callable[[], Any]):
        self._compute = compute
        self._lock = threading.Lock()
        self._values: list[Any] = []

    def __call__(self) -> Any:
        """The value."""
        with self._lock:
            if not self._values:
                self._values.append(self._compute())
            return self._values[0]
