"""Times of calls, taken in turns, and their ratios."""

import time
from collections.abc import Callable, Hashable, Mapping

import jax
import numpy as np


def seconds(call: Callable[[], object]) -> float:
    """Of a call that returns JAX arrays, which are waited for, or is then done."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def in_turns(
    calls: Mapping[Hashable, Callable[[], object]],
    rounds: int,
    measure: Callable[[Callable[[], object]], float] = seconds,
) -> dict[Hashable, np.ndarray]:
    """Times calls in turns, so that whatever else the machine does meets all of them.

    Args:
      calls: by name.
      rounds: how often each is timed, after one call that is not.
      measure: the seconds that a call takes.

    Returns:
      For each name its seconds, float64 [rounds].
    """
    names = list(calls)
    for call in calls.values():
        measure(call)
    taken = {name: np.empty(rounds) for name in names}
    # Any order, each round another: what runs after whom may matter.
    random = np.random.default_rng(0)
    for turn in range(rounds):
        for place in random.permutation(len(names)):
            taken[names[place]][turn] = measure(calls[names[place]])
    return taken


def ratio(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Quartiles (lower, median, upper) of first over second, round by round."""
    low, median, high = np.percentile(first / second, (25, 50, 75)).tolist()
    return low, median, high
