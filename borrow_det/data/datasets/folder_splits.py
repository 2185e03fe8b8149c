"""Splits that a run asks for, and the splits that a folder has.

Validation splits have several usual names. If a folder has none of them, a share of the
training images is held out.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from borrow_det.data.datasets.opened import check_split_names
from borrow_det.errors import InputError

# Names of the validation split, the preferred one first.
VALIDATION = ("val", "valid", "validation", "dev")
# Fields of images that name their video, camera or place, the preferred one first.
GROUP_FIELDS = ("video_id", "video", "camera", "sequence", "seq_id", "location")

_ROBOFLOW_VERSION = ".rf."


class Part(NamedTuple):
    """The images of an asked split.

    Attributes:
      split: name of the split in the folder.
      held_out: true for the images that are held out of it, false for the others,
        None for all images.
    """

    split: str
    held_out: bool | None = None


def choose(
    asked: Collection[str],
    known: Collection[str],
    in_config: Collection[str],
    train: str,
    held_out: float,
    dataset: str,
) -> dict[str, Part]:
    """Finds the splits of a folder that serve as the asked ones.

    Args:
      asked: names of complete splits.
      known: names of the folder's splits.
      in_config: names of the complete splits that the run trains and evaluates on: if
        one of them is held out, `train` lacks its images.
      train: name of the training split.
      held_out: dataset.held_out.
      dataset: path and format of the folder, for messages.

    Raises:
      InputError: a split is unknown; lists the known ones.
    """
    present = [found for name in VALIDATION if (found := _find(name, known))]
    wanted = {*asked, *in_config} & set(VALIDATION)
    absent = {name for name in wanted if not _find(name, known)}
    whole = _find(train, known)
    takes_share = bool(absent) and not present and held_out > 0 and bool(whole)
    parts: dict[str, Part] = {}
    for name in asked:
        found = _find(name, known)
        if name in absent and present:
            parts[name] = Part(present[0])
        elif name in absent and takes_share:
            parts[name] = Part(whole, held_out=True)
        elif found:
            is_rest = takes_share and found == whole
            parts[name] = Part(found, held_out=False if is_rest else None)
        elif name in absent and whole:
            raise InputError(
                f"{dataset} has no validation split: add one, or set dataset.held_out "
                f"to the share of {whole} to hold out"
            )
        else:
            check_split_names(dataset, [name], known)
    return parts


def _find(name: str, known: Collection[str]) -> str:
    """Returns the split of a folder that has a name, possibly in another case.

    CVAT calls the images without a subset `default`: they are `train`.

    Returns:
      the name in the folder; "" if there is none, or several in other cases.
    """
    if name in known:
        return name
    wanted = (name, "default") if name == "train" else (name,)
    for text in wanted:
        found = [split for split in known if split.casefold() == text.casefold()]
        if found:
            return found[0] if len(found) == 1 else ""
    return ""


def group_field(
    images: Sequence[Mapping[str, Any]], field: str, least_groups: int = 2
) -> str:
    """Returns the field whose values group the images; "" if there is none.

    Without dataset.group, it is one that all images have.

    Args:
      images: `Copy.images`.
      field: dataset.group.
      least_groups: number of groups that there must be without dataset.group.

    Raises:
      InputError: an image lacks the field that dataset.group names.
    """
    if field:
        for image in images:
            if image["fields"].get(field) is None:
                raise InputError(
                    f"image {image['file_name']!r} has no field {field!r}: correct "
                    "dataset.group"
                )
        return field
    for name in GROUP_FIELDS:
        values = {json.dumps(image["fields"].get(name)) for image in images}
        if len(values) >= least_groups and "null" not in values:
            return name
    return ""


def hold_out(
    images: Sequence[Mapping[str, Any]], share: float, field: str
) -> np.ndarray:
    """Chooses the images that are held out for validation.

    All images of a group are on one side. Without groups, the versions that Roboflow
    makes of one picture, NAME.rf.HASH.jpg, are. The choice depends on the names of the
    groups, or of the images without groups, and on nothing else: not on their order,
    and not on a seed.

    Args:
      images: `Copy.images`, at least two.
      share: dataset.held_out.
      field: field whose values group the images; "" for single images.

    Returns:
      bool [n], true for images that are held out.

    Raises:
      InputError: there are fewer than two groups.
    """
    keys = [
        json.dumps(
            image["fields"][field]
            if field
            else image["file_name"].partition(_ROBOFLOW_VERSION)[0]
        )
        for image in images
    ]
    groups: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    if len(groups) < 2:
        what = f"group (field {field})" if field else "image"
        raise InputError(
            f"{len(groups)} {what} cannot be divided into training and validation "
            "images: add a validation split, or set dataset.group to another field"
        )
    target = max(1, round(share * len(images)))
    order = sorted(groups, key=lambda key: hashlib.sha256(key.encode()).digest())
    chosen: list[int] = []
    for key in order:
        if len(chosen) + len(groups[key]) <= target:
            chosen += groups[key]
    if not chosen:  # All groups are larger than the share.
        chosen = groups[min(order, key=lambda key: len(groups[key]))]
    mask = np.zeros(len(images), np.bool_)
    mask[chosen] = True
    return mask
