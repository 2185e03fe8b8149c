"""Renamed config fields and values; old work directories hold the old names."""

from collections.abc import Mapping
from typing import Any

# Old name: new name.
FIELDS = {"evaluation.source_scale": "evaluation.lender_scale"}
# Field, by its new name: {old value: new value}.
VALUES: dict[str, dict[Any, Any]] = {
    "dataset.name": {"coco_folder": "folder"},
    "loss.ignored": {"spared": "ignored"},
    # Those of VGG-16 were written out when there were no other trunks.
    "model.stages": {(2, 2, 3, 3, 3): ()},
}


def current(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns flat fields {full name: value} with their current names and values."""
    renamed = {FIELDS.get(name, name): value for name, value in fields.items()}
    for name, values in VALUES.items():
        if name in renamed:
            renamed[name] = values.get(renamed[name], renamed[name])
    return renamed


def find(field: str) -> str | None:
    """Returns a sentence with the current name of a renamed field, or None.

    Args:
      field: the old name, in full (`evaluation.source_scale`) or without its group.
    """
    for old, new in FIELDS.items():
        if field in (old, old.rpartition(".")[2]):
            return f"{old} is now {new}"
    return None
