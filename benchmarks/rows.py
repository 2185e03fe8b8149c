"""The rows of a benchmark: each is printed as soon as it is measured, or has failed."""

import contextlib
import fnmatch
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

import numpy as np

from borrow_det.tools import timing

OURS = "ours"


class Rows:
    """Takes rows one by one, so that a run that is ended keeps what it has measured.

    JSON objects go to stdout and to a file, one a line; a line of a table to stderr.
    """

    def __init__(self, file: TextIO | None, patterns: Sequence[str], budget: float):
        """What is asked for.

        Args:
          file: a second place for the JSON lines.
          patterns: shell patterns of the names of rows; none: every row.
          budget: seconds from now after which no row is begun; 0: no limit.
        """
        self._file = file
        self._patterns = patterns
        self._end = time.monotonic() + budget if budget else float("inf")

    def wanted(self, name: str) -> bool:
        """Whether a row of this name is asked for."""
        patterns = self._patterns
        return not patterns or any(fnmatch.fnmatch(name, p) for p in patterns)

    @property
    def over(self) -> bool:
        """Whether the time is."""
        return time.monotonic() > self._end

    def put(self, record: Mapping[str, Any]) -> None:
        """Prints an object that is no row, such as what the machine is."""
        line = json.dumps(record)
        for file in (sys.stdout, self._file):
            if file is not None:
                print(line, file=file, flush=True)

    def measure(self, name: str, measure: Callable[[], Mapping[str, Any]]) -> None:
        """Runs `measure` for the figures of a row; what it raises becomes the row."""
        if not self.wanted(name):
            return
        if self.over:
            record = {"row": name, "failed": "--budget was over"}
        else:
            try:
                record = {"row": name, **measure()}
            except Exception as error:  # Of any library: the next row may do.
                record = {"row": name, "failed": error_line(error)}
        self.put(record)
        print(_table_line(record), file=sys.stderr, flush=True)


def error_line(error: BaseException) -> str:
    """An exception in one short line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"


def compare(
    makers: Mapping[str, Callable[[], Callable[[], object]]], rounds: int
) -> dict[str, Any]:
    """Times calls in turns (tools/timing.py) and holds the others against ours.

    Args:
      makers: by name, OURS among them, what makes a call, and may take long. One that
        fails, as its first call may, is left out and told of.
      rounds: timings of each, after two calls that are not timed.

    Returns:
      `ms`, the median of each; `speedup` of OURS over each other one: quartiles (lower,
      median, upper) of that one's time over ours in the same round, so above 1 where
      OURS is faster; `without`, the error line of each that failed.
    """
    calls, without = {}, {}
    for name, make in makers.items():
        try:
            calls[name] = make()
            timing.in_turns({name: calls[name]}, 0)  # Its first call may fail, too.
        except Exception as error:
            calls.pop(name, None)
            without[name] = error_line(error)
    seconds = timing.in_turns(calls, rounds)
    figures = {"ms": {n: 1e3 * float(np.median(s)) for n, s in seconds.items()}}
    if ours := OURS in seconds:
        figures["speedup"] = {
            name: timing.ratio(taken, seconds[OURS])
            for name, taken in seconds.items()
            if name != OURS
        }
    if not ours or without:
        figures["without"] = without
    return figures


def _table_line(record):
    """A row for people: name, milliseconds, and ours against each other one."""
    if "failed" in record:
        return f"{record['row']:28s} failed: {record['failed']}"
    parts = []
    speedup = record.get("speedup", {})
    for name, ms in record.get("ms", {}).items():
        part = f"{name} {ms:.4g} ms"
        if name in speedup:
            low, median, high = speedup[name]
            part += f" = {median:.2f} x ours ({low:.2f}-{high:.2f})"
        parts.append(part)
    parts += [f"{name}: {line}" for name, line in record.get("without", {}).items()]
    shown = {"row", "ms", "speedup", "without"}
    parts += [f"{k} {_short(v)}" for k, v in record.items() if k not in shown]
    return f"{record['row']:28s} " + "; ".join(parts)


def _short(value):
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(v)}" for name, v in value.items())
    if isinstance(value, (list, tuple)):
        return "/".join(_short(v) for v in value)
    return str(value)


@contextlib.contextmanager
def opened(output: str | None):
    """The file that --output names, to write, or None."""
    if not output:
        yield None
        return
    with open(output, "w") as file:
        yield file
