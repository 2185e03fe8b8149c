"""The exceptions that do not mean a bug: wrong input, and preemption."""

from collections.abc import Collection
from typing import Any


class InputError(ValueError):
    """A file, a field or a record is wrong; the message names it and what to do.

    Command-line entry points print it as one line and exit with status 2; every other
    exception is a bug and keeps its traceback.
    """


def check_choice(field: str, value: Any, choices: Collection) -> None:
    """Raises InputError where a config field's value is none of its choices."""
    if value not in choices:
        raise InputError(f"{field} is {value!r}; it must be one of {list(choices)}")


class PreemptedError(Exception):
    """The run was told to stop, and its checkpoint is written: start it again."""
