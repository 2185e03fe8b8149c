"""Timings of calls in turns, and the ratios of their times."""

import functools
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import jax
import numpy as np

_Name = TypeVar("_Name", bound=Hashable)


def seconds(call: Callable[[], object]) -> float:
    """Times a call until the JAX arrays that it returns, if any, are ready."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def in_turns(
    calls: Mapping[_Name, Callable[[], object]], rounds: int
) -> dict[_Name, np.ndarray]:
    """Times calls in turns, so that other work on the machine affects all of them.

    Args:
      calls: calls by name.
      rounds: number of timings of each call, after one that is not timed.

    Returns:
      Seconds of each call by name, float64 [rounds].
    """
    measures = {name: functools.partial(seconds, call) for name, call in calls.items()}
    return sample_in_turns(measures, rounds)


def sample_in_turns(
    measures: Mapping[_Name, Callable[[], float]], rounds: int
) -> dict[_Name, np.ndarray]:
    """Collects measurements in turns; see `in_turns`.

    Args:
      measures: functions by name. Each does its work and returns the seconds.
      rounds: number of calls of each function, after one whose result is dropped.

    Returns:
      Results of each function by name, float64 [rounds].
    """
    names = list(measures)
    for measure in measures.values():
        measure()
    taken = {name: np.empty(rounds) for name in names}
    # The order changes from round to round, since a call may affect the next one.
    random = np.random.default_rng(0)
    for turn in range(rounds):
        for place in random.permutation(len(names)):
            taken[names[place]][turn] = measures[names[place]]()
    return taken


def ratio(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Returns the quartiles (lower, median, upper) of first / second by round."""
    low, median, high = np.percentile(first / second, (25, 50, 75)).tolist()
    return low, median, high
