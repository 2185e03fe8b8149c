"""Exceptions for wrong input and for preemption."""

import contextlib
import unicodedata
from collections.abc import Collection, Iterator
from typing import Any


class InputError(ValueError):
    """A wrong file, field or record; the message names it and how to correct it.

    Command-line entry points print it and exit with status 2. Every other exception is
    a bug and keeps its traceback. The message is one line: line breaks and control
    characters of the names in it are escaped.
    """

    def __init__(self, message: str):
        super().__init__(escape_controls(message))


def escape_controls(text: str) -> str:
    """Escapes line breaks and control characters as in Python's string literals."""
    return "".join(
        c.encode("unicode_escape").decode()
        if unicodedata.category(c) in ("Cc", "Zl", "Zp")
        else c
        for c in text
    )


def check_choice(field: str, value: Any, choices: Collection) -> None:
    """Raises InputError if the value of a config field is none of its choices."""
    if value not in choices:
        raise InputError(f"{field} is {value!r}; it must be one of {list(choices)}")


class PreemptedError(Exception):
    """Raised when a run is told to stop; started again, it resumes."""


@contextlib.contextmanager
def absent_package(message: str) -> Iterator[None]:
    """Raises InputError with a message if an import finds no package.

    Args:
      message: text with `{}` for the name of the package.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(message.format(error.name)) from error
