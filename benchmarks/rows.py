"""The rows of a benchmark: each is printed as soon as it is measured, or has failed."""

import contextlib
import fnmatch
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

import jax
import numpy as np

from borrow_det.tools.common import timing

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
        print(table_line(record), file=sys.stderr, flush=True)


def error_line(error: BaseException) -> str:
    """An exception in one short line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"


def compare(
    makers: Mapping[str, Callable[[], Callable[[], object]]],
    rounds: int,
    *,
    base: str = OURS,
    seconds: float = float("inf"),
    check: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda said: {},
) -> dict[str, Any]:
    """Times calls in turns (tools/common/timing.py) and holds the others against `base`.

    Args:
      makers: by name, `base` among them, what makes a call, and may take long. One
        that fails, as its first call may, is left out and told of.
      rounds: timings of each, after the first, which are not counted.
      base: the one that the others are held against.
      seconds: about so long may all rounds take; slow calls have fewer, at least 3.
      check: more figures, of what each call has returned: whether all did the same.

    Returns:
      `ms`, the median of each, and `least_ms`; `over_BASE` of each other one: quartiles
      (lower, median, upper) of its time over that of `base` in the same round, so above
      1 where `base` is faster; `rounds`; `without`, the error line of each that failed.
    """
    calls, said, without, warm = {}, {}, {}, 0.0
    for name, make in makers.items():
        try:
            call = make()
            said[name] = jax.block_until_ready(call())
            warm += float(timing.in_turns({name: call}, 1)[name][0])
            calls[name] = call
        except Exception as error:
            without[name] = error_line(error)
    checked = _checked(check, {name: said[name] for name in calls})
    said.clear()
    rounds = int(np.clip(seconds / max(warm, 1e-9), min(3, rounds), rounds))
    taken = timing.in_turns(calls, rounds)
    figures = {
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


def _checked(check, said):
    try:
        return check(said)
    except Exception as error:
        return {"check": error_line(error)}


def table_line(record):
    """A row for people: name, milliseconds, and the others against the base."""
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
