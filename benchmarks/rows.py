"""Rows of a benchmark, each printed as soon as it is measured or has failed."""

import contextlib
import fnmatch
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

import jax
import numpy as np
from absl import flags

from borrow_det.tools.common import timing

OURS = "ours"


class RowWriter:
    """Measures rows and prints each at once, so that a run that is ended keeps them.

    JSON objects go to stdout and to a file, one per line; table lines go to stderr.
    """

    def __init__(
        self, file: TextIO | None, patterns: Sequence[str], budget: float
    ) -> None:
        """Selects rows and starts the budget.

        Args:
          file: second output for the JSON lines.
          patterns: shell patterns of names of rows; empty for all rows.
          budget: seconds from now after which no row starts; 0 for no limit.
        """
        self._file = file
        self._patterns = patterns
        self._end = time.monotonic() + budget if budget else float("inf")

    def wanted(self, name: str) -> bool:
        """Returns True if the patterns select a row of this name."""
        patterns = self._patterns
        return not patterns or any(fnmatch.fnmatch(name, p) for p in patterns)

    @property
    def over(self) -> bool:
        """True if the budget is used up."""
        return time.monotonic() > self._end

    def put(self, record: Mapping[str, Any]) -> None:
        """Prints an object, such as a row or a description of the machine."""
        line = json.dumps(record)
        for file in (sys.stdout, self._file):
            if file is not None:
                print(line, file=file, flush=True)

    def measure(self, name: str, measure: Callable[[], Mapping[str, Any]]) -> None:
        """Runs `measure` and prints its figures as a row, or its error."""
        if not self.wanted(name):
            return
        if self.over:
            record = {"row": name, "failed": "--budget was used up"}
        else:
            try:
                record = {"row": name, **measure()}
            except Exception as error:  # Any library may fail; the next row may work.
                record = {"row": name, "failed": error_line(error)}
        self.put(record)
        print(table_line(record), file=sys.stderr, flush=True)


def error_line(error: BaseException) -> str:
    """Formats an exception as one short line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"


def compare(
    makers: Mapping[str, Callable[[], Callable[[], object]]],
    rounds: int,
    *,
    base: str = OURS,
    seconds: float = float("inf"),
    check: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda results: {},
) -> dict[str, Any]:
    """Times calls in turns (`timing.in_turns`) and compares them with `base`.

    Args:
      makers: functions by name, with `base` among them, that make a call and may take
        long. If one fails, or its first call, it is omitted and its error is reported.
      rounds: number of timings of each call, after calls that are not timed.
      base: name of the call with which the others are compared.
      seconds: approximate time for all rounds; slow calls get fewer, at least 3.
      check: computes further figures from the results of the calls by name, to show
        that all calls did the same work.

    Returns:
      `ms`, the median of each call; `least_ms`, the minimum; `over_BASE`, for each
      other call the quartiles (lower, median, upper) of its time divided by that of
      `base` in the same round, so above 1 if `base` is faster; `rounds`; and `without`,
      the error of each call that failed.
    """
    calls: dict[str, Callable[[], object]] = {}
    results: dict[str, Any] = {}
    without: dict[str, str] = {}
    warm = 0.0
    for name, make in makers.items():
        try:
            call = make()
            results[name] = jax.block_until_ready(call())
            warm += float(timing.in_turns({name: call}, 1)[name][0])
            calls[name] = call
        except Exception as error:
            without[name] = error_line(error)
    checked = _checked(check, {name: results[name] for name in calls})
    results.clear()  # Frees device memory.
    rounds = int(np.clip(seconds / max(warm, 1e-9), min(3, rounds), rounds))
    taken = timing.in_turns(calls, rounds)
    figures: dict[str, Any] = {
        "ms": {n: 1e3 * float(np.median(s)) for n, s in taken.items()},
        "least_ms": {n: 1e3 * float(np.min(s)) for n, s in taken.items()},
    }
    if base in taken:
        figures[f"over_{base}"] = {
            name: timing.ratio(times, taken[base])
            for name, times in taken.items()
            if name != base
        }
    figures |= {"rounds": rounds, **checked}
    if without:
        figures["without"] = without
    return figures


def _checked(
    check: Callable[[Mapping[str, Any]], Mapping[str, Any]], results: Mapping[str, Any]
) -> Mapping[str, Any]:
    try:
        return check(results)
    except Exception as error:
        return {"check": error_line(error)}


def table_line(record: Mapping[str, Any]) -> str:
    """Formats a row for reading: name, milliseconds, ratios and other figures."""
    if "failed" in record:
        return f"{record['row']:28s} failed: {record['failed']}"
    over = {name: v for name, v in record.items() if name.startswith("over_")}
    parts = []
    for name, ms in record.get("ms", {}).items():
        part = f"{name} {ms:.4g} ms"
        for field, ratios in over.items():
            if name in ratios:
                low, median, high = ratios[name]
                base = field.removeprefix("over_")
                part += f" = {median:.2f} x {base} ({low:.2f}-{high:.2f})"
        parts.append(part)
    parts += [f"{name}: {line}" for name, line in record.get("without", {}).items()]
    shown = {"row", "ms", "least_ms", "without", *over}
    parts += [f"{k} {_short(v)}" for k, v in record.items() if k not in shown]
    return f"{record['row']:28s} " + "; ".join(parts)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(v)}" for name, v in value.items())
    if isinstance(value, (list, tuple)):
        return "/".join(_short(v) for v in value)
    return str(value)


@contextlib.contextmanager
def opened(output: str | None) -> Iterator[TextIO | None]:
    """Opens the file of --output for writing; yields None without one."""
    if not output:
        yield None
        return
    with open(output, "w") as file:
        yield file


def define_row_flags(flag_values: flags.FlagValues, rounds: int) -> None:
    """Defines the flags of a benchmark with rows: --rows, --rounds, --budget, --output.

    Args:
      flag_values: set of flags to add them to.
      rounds: default of --rounds.
    """
    text: dict[str, Any] = {"flag_values": flag_values}
    flags.DEFINE_list(
        "rows", [], "Shell patterns of the rows to measure (default: all).", **text
    )
    flags.DEFINE_integer("rounds", rounds, "Number of timings of each call.", 1, **text)
    flags.DEFINE_float(
        "budget", 0.0, "Seconds after which no row starts (0: no limit).", 0, **text
    )
    flags.DEFINE_string("output", None, "File for a copy of the JSON lines.", **text)
