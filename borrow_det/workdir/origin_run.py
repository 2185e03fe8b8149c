"""Comparison of a run with the run that its initial parameters come from."""

import os
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from borrow_det.errors import InputError
from borrow_det.io import paths
from borrow_det.ops import anchors as anchor_ops
from borrow_det.workdir import metadata


def check_groups(origin: str | os.PathLike, config: ml_collections.ConfigDict) -> None:
    """Checks the group size of a trunk with group normalization; no shape shows it.

    Raises:
      InputError: both trunks have group normalization, with other group sizes.
    """
    if not _is_run(origin):
        return
    here, there = config.model, _stored_fields(origin)["model"]
    sizes = there.get("group_size"), here.group_size
    if there.get("norm") == here.norm == "group" and sizes[0] != sizes[1]:
        raise InputError(
            f"init_from: the trunk of {origin} was trained with model.group_size="
            f"{sizes[0]}, this config says {sizes[1]}"
        )


def other_heads(
    origin: str | os.PathLike,
    config: ml_collections.ConfigDict,
    classes: metadata.Classes,
) -> dict[str, str]:
    """Finds parts of the heads with another meaning at the origin: {part: reason}.

    No shape shows it: class logits of other classes, boxes relative to other anchors,
    layers behind another number of layers, boxes that are predicted from other maps.
    An import, without config and classes, has no heads.

    Raises:
      InputError: the origin's files are not those of a run.
    """
    if not _is_run(origin):
        return {}
    there, here = _stored_fields(origin), metadata.as_stored(config.to_dict())
    found = {}
    if metadata.load_classes(origin).class_names != classes.class_names:
        found["class"] = "other classes"
    if there["task"] == here["task"] == "detection":
        why = _other_anchors(there, here)
        found |= {part: found.get(part, why) for part in ("class", "box") if why}
        found = _behind_other_layers(there, here) | found
        if _sees_borrowed(there) != _sees_borrowed(here):
            parts = ("box", "box_tower") if here["head"]["depth"] else ("box",)
            why = "other borrow.heads or borrow.enabled"
            found |= {part: found.get(part, why) for part in parts}
    return found


def _behind_other_layers(
    there: Mapping[str, Any], here: Mapping[str, Any]
) -> dict[str, str]:
    """Finds the parts of the heads whose inputs differ by the form of the towers."""
    # Runs that are older than the fields have no towers.
    theirs = {"depth": 0, "norm": "none", **there.get("head", {})}
    for name in ("depth", "norm"):
        if theirs[name] != here["head"][name]:
            parts = ("class", "box", "class_tower", "box_tower")
            return dict.fromkeys(parts, f"other head.{name}")
    return {}


def _sees_borrowed(fields: Mapping[str, Any]) -> bool:
    """Returns whether boxes are predicted from what is borrowed."""
    borrow = fields["borrow"]
    # Runs that are older than the field predict both with what is borrowed.
    return bool(borrow["enabled"]) and borrow.get("heads", "both") == "both"


def _other_anchors(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Describes how two configs' anchors differ; "" if they do not."""
    for name, value in here["anchors"].items():
        if there["anchors"].get(name) != value:
            return f"other anchors.{name}"
    shapes, other_shapes = (
        anchor_ops.position_shapes(
            ml_collections.ConfigDict(fields["anchors"]), fields["input_size"]
        )
        for fields in (here, there)
    )
    same = all(map(np.array_equal, shapes, other_shapes))
    return "" if same else "other anchors by another input_size"


def _is_run(origin: str | os.PathLike) -> bool:
    return (paths.as_path(origin) / "config.json").exists()


def _stored_fields(origin: str | os.PathLike) -> dict[str, Any]:
    """Reads the fields of a run's config.json that are compared here."""
    fields = metadata.load_json(origin, "config.json")
    groups: dict[str, type] = dict.fromkeys(("model", "borrow", "anchors"), Mapping)
    groups |= {"task": str, "input_size": tuple}
    wrong = [n for n, kind in groups.items() if not isinstance(fields.get(n), kind)]
    if wrong:
        raise InputError(
            f"init_from: {origin}/config.json is not a run's: {', '.join(wrong)} "
            "missing or damaged"
        )
    return fields
