"""The fields of runs of the first versions."""

import pathlib
from typing import Any

_NAMES = pathlib.Path(__file__).with_suffix(".txt").read_text().split()


def only(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns a config without the fields that are younger than the first runs."""
    kept: dict[str, Any] = {}
    for name in _NAMES:
        *groups, last = name.split(".")
        source, target = fields, kept
        for group in groups:
            source, target = source[group], target.setdefault(group, {})
        target[last] = source[last]
    return kept
