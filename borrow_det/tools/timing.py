"""Times of calls, taken in turns, and their ratios."""

import time
from collections.abc import Callable, Mapping

import jax
import numpy as np


def in_turns(
    calls: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, np.ndarray]:
    """Times calls in turns, so that whatever else the machine does meets all of them.

    Args:
      calls: by name. Each returns JAX arrays, which are waited for, or has done its
        work when it returns.
      rounds: how often each is timed, after one call that is not.

    Returns:
      For each name its seconds, float64 [rounds].
    """
    names = list(calls)
    for call in calls.values():
        jax.block_until_ready(call())
    seconds = {name: np.empty(rounds) for name in names}
    # Any order, each round another: what runs after whom may matter.
    random = np.random.default_rng(0)
    for turn in range(rounds):
        for place in random.permutation(len(names)):
            start = time.perf_counter()
            jax.block_until_ready(calls[names[place]]())
            seconds[names[place]][turn] = time.perf_counter() - start
    return seconds


def ratio(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Quartiles (lower, median, upper) of first over second, round by round."""
    low, median, high = np.percentile(first / second, (25, 50, 75)).tolist()
    return low, median, high
