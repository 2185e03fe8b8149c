"""Problems of a dataset: collected in one pass, counted, listed in a report."""

import collections
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from borrow_det.errors import InputError
from borrow_det.io import paths

_SHOWN = 3  # Problems of each kind that a summary quotes.
_LONGEST = 500  # Characters of each part of a quoted problem.


class Problem(NamedTuple):
    """One thing that is wrong with a dataset.

    Attributes:
      kind: a short noun phrase, the same for all problems of one kind: "missing image".
      file: path of the file with the problem.
      record: place in the file, such as "annotations[3]"; "" for the entire file.
      reason: what is wrong, a clause without a period.
    """

    kind: str
    file: str
    record: str
    reason: str

    def __str__(self) -> str:
        parts = (self.file, self.record, self.reason)
        return _joined(parts)


def _joined(parts: Iterable[str]) -> str:
    return ": ".join(_shortened(part) for part in parts if part)


def _quoted(problems: Iterable[Problem]) -> str:
    """Returns problems as text, with the path of each file at its first record."""
    parts, file = [], ""
    for problem in problems:
        same = problem.record and problem.file == file
        parts.append(
            _joined((problem.record, problem.reason)) if same else str(problem)
        )
        file = problem.file
    return "; ".join(parts)


def _shortened(text: str) -> str:
    """Returns a text without its middle if it quotes something very long."""
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"


class Problems:
    """A collection of problems, in the order of their discovery."""

    def __init__(self, problems: Iterable[Problem] = ()):
        self._problems = list(problems)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._problems)

    def __len__(self) -> int:
        return len(self._problems)

    def add(self, kind: str, file: object, record: str, reason: str) -> None:
        """Adds a problem; see `Problem` for the arguments."""
        self._problems.append(Problem(kind, str(file), record, reason))

    def extend(self, problems: Iterable[Problem]) -> None:
        """Adds problems."""
        self._problems.extend(problems)

    def counts(self) -> dict[str, int]:
        """Returns the number of problems of each kind, the most frequent kind first."""
        kinds = collections.Counter(problem.kind for problem in self._problems)
        return dict(kinds.most_common())

    def summary(self) -> str:
        """Returns the counts by kind with the first few problems of each, as text."""
        parts = []
        for kind, count in self.counts().items():
            found = [problem for problem in self._problems if problem.kind == kind]
            shown = _quoted(found[:_SHOWN])
            more = f"; and {count - _SHOWN} more" if count > _SHOWN else ""
            parts.append(f"{kind} ({count}): {shown}{more}")
        return ". ".join(parts)

    def to_json(self) -> Mapping[str, object]:
        """Returns the counts and all problems as JSON values."""
        return {
            "counts": self.counts(),
            "problems": [problem._asdict() for problem in self._problems],
        }

    def write(self, path: pathlib.Path) -> None:
        """Writes the report with all problems as JSON.

        Raises:
          OSError: the file cannot be written.
        """
        paths.make_folder(path.parent)
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False)
        # File names that are not valid UTF-8 have surrogates.
        paths.write_whole(path, text.encode("utf-8", "backslashreplace") + b"\n")

    def refuse(self, report: pathlib.Path | None, advice: str) -> None:
        """Raises InputError with the summary, unless there are no problems.

        Args:
          report: file for the complete list; None writes none.
          advice: what to do, an imperative clause at the end of the message.
        """
        if not self._problems:
            return
        place = ""
        if report is not None and len(self._problems) > 1:
            try:
                self.write(report)
                place = f" All of them: {report}."
            except OSError:  # The summary is the message that matters.
                place = ""
        count = len(self._problems)
        noun = "problem" if count == 1 else "problems"
        raise InputError(f"{count} {noun}. {self.summary()}.{place} {advice}")
