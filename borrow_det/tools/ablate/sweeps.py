"""Sweep files: Python files whose function `sweep(add)` adds rows to a base config.

    def sweep(add):
        add("ssd", {"borrow.enabled": False, "loss.matching": 0.0})
        add("full", {})

A row is a name and the fields in which it differs from the base. The first row is the
baseline of the others.
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

# A row's folder cannot have these names: they are empty or taken.
_NO_FOLDERS = ("", ".", "..", "compiled", "cells.jsonl")
_LONGEST_NAME = 100
_SET_BY_FLAGS = {
    "seed": "--seeds",
    "dataset.folds": "--folds",
    "dataset.fold": "--folds",
}


class SweepRow(NamedTuple):
    """One variant of a sweep.

    Attributes:
      name: name in the tables.
      overrides: values by full name of the field ("borrow.center").
      config: base config with the overrides.
    """

    name: str
    overrides: dict[str, Any]
    config: ml_collections.ConfigDict

    @property
    def folder(self) -> str:
        """Name of the row's folder."""
        return folder_name(self.name)


def load(path: str | os.PathLike, base: ml_collections.ConfigDict) -> list[SweepRow]:
    """Returns the rows of a sweep file over a base config.

    Raises:
      InputError: the file is absent, fails or has no `sweep(add)`; it adds no row, two
        rows with one name, or a row with a field or a type that the base does not have.
    """
    path = packaged.sweep_file(path)
    rows: list[SweepRow] = []

    def add(name: str, overrides: Mapping[str, Any]) -> None:
        row = _row(name, overrides, base)
        if row.folder in [other.folder for other in rows]:
            raise InputError(
                f"two rows have the name {name!r}, or names of the same folder, "
                f"{row.folder!r}: rename one"
            )
        rows.append(row)

    try:
        sweep = runpy.run_path(str(path)).get("sweep")
        if sweep is None:
            raise InputError("it does not define a function sweep(add)")
        sweep(add)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # A user's file may raise anything.
        raise InputError(f"{path}: {type(error).__name__}: {error}") from error
    if not rows:
        raise InputError(f"{path}: sweep(add) adds no row: call add(name, fields)")
    return rows


def select(
    rows: Sequence[SweepRow], names: Sequence[str], baseline: str
) -> list[SweepRow]:
    """Returns the baseline and the named rows, in order; all rows without names.

    Raises:
      InputError: no row has one of the names.
    """
    known = [row.name for row in rows]
    for name in names:
        check_choice("--row", name, known)
    return [row for row in rows if not names or row.name in (baseline, *names)]


def _row(
    name: str, overrides: Mapping[str, Any], base: ml_collections.ConfigDict
) -> SweepRow:
    if not isinstance(name, str) or folder_name(name) in _NO_FOLDERS:
        raise InputError(
            f"{name!r} cannot be the name of a row: it needs letters or digits, and "
            f"cannot be any of {', '.join(_NO_FOLDERS[1:])}"
        )
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise InputError(
            f"the name of row {name[:20]!r}... must be printable and have at most "
            f"{_LONGEST_NAME} characters"
        )
    config = base.copy_and_resolve_references()
    for field, value in overrides.items():
        _set(config, name, field, value)
    return SweepRow(name, dict(overrides), config)


def _set(config: ml_collections.ConfigDict, row: str, field: str, value: Any) -> None:
    if field in _SET_BY_FLAGS:
        raise InputError(
            f"row {row!r}: {field} is set by the sweep ({_SET_BY_FLAGS[field]}), not "
            "by a row"
        )
    *groups, last = field.split(".")
    group: Any = config
    for part in groups:
        group = (
            group.get(part) if isinstance(group, ml_collections.ConfigDict) else None
        )
    if not isinstance(group, ml_collections.ConfigDict) or last not in group:
        raise InputError(
            f"row {row!r}: the config has no field {field}; configs/base.py lists them"
        )
    old = group[last]
    kept = isinstance(value, type(old)) or (type(value), type(old)) == (int, float)
    if not kept or isinstance(value, bool) != isinstance(old, bool):
        raise InputError(
            f"row {row!r}: {field} is {value!r} ({type(value).__name__}); "
            f"it must be of type {type(old).__name__}"
        )
    if not isinstance(value, str) and not _is_literal(value):
        raise InputError(f"row {row!r}: {field} is {value!r}, which is not a literal")
    group[last] = float(value) if isinstance(old, float) else value


def _is_literal(value: Any) -> bool:
    """Returns True if a command line can hold the value; NumPy numbers cannot."""
    try:
        return ast.literal_eval(repr(value)) == value
    except (SyntaxError, ValueError):
        return False
