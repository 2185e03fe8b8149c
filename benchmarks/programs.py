"""Programs that are made side by side, since compiling one takes up to minutes."""

from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any


class Programs:
    """What a benchmark's rows run, made in threads ahead of them.

    Rows are timed only while nothing is being made: XLA tries kernels on the GPU.
    """

    def __init__(self, makers: Mapping[str, Callable[[], Any]], threads: int):
        """Keeps what makes each program, by name, and how many are made at a time."""
        self._makers = makers
        self._threads = threads
        self._made: dict[str, futures.Future] = {}

    def make(self, names: Sequence[str]) -> None:
        """Makes these and waits for all; an error is kept for who asks for it."""
        with futures.ThreadPoolExecutor(self._threads) as pool:
            for name in names:
                if name not in self._made:
                    self._made[name] = pool.submit(self._makers[name])

    def __getitem__(self, name: str) -> Any:
        """The program.

        Raises:
          What making it raised.
        """
        if name not in self._made:
            self.make([name])
        return self._made[name].result()

    def drop(self) -> None:
        """Forgets all, and the device memory that they hold."""
        self._made.clear()
