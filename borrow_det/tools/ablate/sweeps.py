"""Reading a sweep: a Python file whose `sweep(add)` names rows over one base config.

    def sweep(add):
        add("ssd", {"borrow.enabled": False, "loss.matching": 0.0})
        add("full", {})

Each row is a name and the fields in which it differs from the base; the first one is
the baseline of the others.
"""

import ast
import os
import runpy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from borrow_det.config import packaged
from borrow_det.errors import InputError, check_choice
from borrow_det.workdir.metadata import folder_name

# Names that a row's folder cannot have: other things have them.
_NO_FOLDERS = ("", ".", "..", "compiled", "cells.jsonl")
_LONGEST_NAME = 100


class Row(NamedTuple):
    """One variant of a sweep.

    Attributes:
      name: as it stands in the tables.
      overrides: full field name ("borrow.center") to value, of the field's type.
      config: the base with them.
    """

    name: str
    overrides: dict[str, Any]
    config: ml_collections.ConfigDict

    @property
    def folder(self) -> str:
        """The name as a folder's."""
        return folder_name(self.name)


def load(path: str | os.PathLike, base: ml_collections.ConfigDict) -> list[Row]:
    """The rows of a sweep file over a base config.

    Raises:
      InputError: the file is not there, fails or has no `sweep(add)`; it adds no row,
        two of one name, or one with a field or a type that the base does not have.
    """
    path = packaged.sweep_file(path)
    rows: list[Row] = []

    def add(name: str, overrides: Mapping[str, Any]) -> None:
        row = _row(name, overrides, base)
        if row.folder in [other.folder for other in rows]:
            raise InputError(f"two rows have the name {name!r}, as a folder's")
        rows.append(row)

    try:
        sweep = runpy.run_path(str(path)).get("sweep")
        if sweep is None:
            raise InputError("it defines no function sweep(add)")
        sweep(add)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # Whatever somebody's Python file may raise.
        raise InputError(f"{path}: {type(error).__name__}: {error}") from error
    if not rows:
        raise InputError(f"{path}: sweep(add) adds no row")
    return rows


def choose(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """The baseline and the rows of these names, in order; all where none is named.

    Raises:
      InputError: no row has such a name.
    """
    known = [row.name for row in rows]
    for name in names:
        check_choice("--row", name, known)
    return [row for row in rows if not names or row.name in (known[0], *names)]


def _row(name, overrides, base):
    if not isinstance(name, str) or folder_name(name) in _NO_FOLDERS:
        raise InputError(f"{name!r} is no name of a row")
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise InputError(
            f"the name of row {name[:20]!r}... must be printable, and of at most "
            f"{_LONGEST_NAME} characters"
        )
    config = base.copy_and_resolve_references()
    for field, value in overrides.items():
        _set(config, name, field, value)
    return Row(name, dict(overrides), config)


def _set(config, row, field, value):
    if field == "seed":
        raise InputError(f"row {row!r}: seed is the sweep's, not a row's")
    *groups, last = field.split(".")
    group = config
    for part in groups:
        group = group.get(part) if isinstance(group, ml_collections.ConfigDict) else 0
    if not isinstance(group, ml_collections.ConfigDict) or last not in group:
        raise InputError(
            f"row {row!r}: the config has no field {field}; configs/base.py lists them"
        )
    old = group[last]
    kept = isinstance(value, type(old)) or (type(value), type(old)) == (int, float)
    if not kept or isinstance(value, bool) != isinstance(old, bool):
        raise InputError(
            f"row {row!r}: {field} is {value!r}, a {type(value).__name__}; "
            f"it takes a {type(old).__name__}"
        )
    if not isinstance(value, str) and not _is_literal(value):
        raise InputError(f"row {row!r}: {field} is {value!r}, which is no literal")
    group[last] = float(value) if isinstance(old, float) else value


def _is_literal(value):
    """Whether a command line can say it: NumPy's numbers in a tuple cannot."""
    try:
        return ast.literal_eval(repr(value)) == value
    except (SyntaxError, ValueError):
        return False
