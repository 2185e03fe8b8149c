"""Exceptions for wrong input and for preemption."""

from collections.abc import Collection
from typing import Any


class InputError(ValueError):
    """A wrong file, field or record; the message names it and says what to do.

    Command-line entry points print it in one line and exit with status 2. Every other
    exception is a bug and keeps its traceback.
    """


def check_choice(field: str, value: Any, choices: Collection) -> None:
    """Raises InputError if the value of a config field is none of its choices."""
    if value not in choices:
        raise InputError(f"{field} is {value!r}; it must be one of {list(choices)}")


class PreemptedError(Exception):
    """Raised when a run is told to stop; started again, it resumes."""
