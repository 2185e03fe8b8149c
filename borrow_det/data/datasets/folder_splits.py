"""Splits that a run asks for, and the splits that a folder has.

Validation splits have several usual names. If a folder has none of them, a share of the
training images is held out.
"""

import hashlib
import json
import re
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from borrow_det.data.datasets.opened import check_split_names
from borrow_det.errors import InputError

# Names of the validation split, the preferred one first.
VALIDATION = ("val", "valid", "validation", "dev")
# Fields of images that name their video, camera or place, the preferred one first.
GROUP_FIELDS = ("video_id", "video", "camera", "sequence", "seq_id", "location")

_ROBOFLOW_VERSION = ".rf."
_Key = TypeVar("_Key", bound=Hashable)


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
    present = [found for name in VALIDATION if (found := find_split(name, known))]
    wanted = {*asked, *in_config} & set(VALIDATION)
    absent = {name for name in wanted if not find_split(name, known)}
    whole = find_split(train, known)
    takes_share = bool(absent) and not present and held_out > 0 and bool(whole)
    parts: dict[str, Part] = {}
    for name in asked:
        found = find_split(name, known)
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


def find_split(name: str, known: Collection[str]) -> str:
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
      field: dataset.group. A regular expression for file names is returned as it is.
      least_groups: number of groups that there must be without dataset.group.

    Raises:
      InputError: an image lacks the field that dataset.group names.
    """
    if is_expression(field):
        return field
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


def members(keys: Sequence[_Key]) -> dict[_Key, list[int]]:
    """Returns the indices of the images with each key, in the order of the first."""
    groups: dict[_Key, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    return groups


def key_hash(key: str) -> bytes:
    """Returns a hash that orders keys without regard to their text."""
    return hashlib.sha256(key.encode()).digest()


def is_expression(field: str) -> bool:
    """Returns whether a field of groups is a regular expression for file names."""
    return "(" in field


def group_keys(images: Sequence[Mapping[str, Any]], field: str) -> list[str]:
    """Returns a key for each image, equal for images that belong together.

    Args:
      images: `Copy.images`.
      field: result of `group_field`. Without groups, only the versions that Roboflow
        makes of one picture, NAME.rf.HASH.jpg, belong together.

    Raises:
      InputError: the expression is wrong, or not found in the name of an image.
    """
    names = [image["file_name"] for image in images]
    if is_expression(field):
        return [json.dumps(key) for key in keys_of_names(names, field, "dataset.group")]
    if field:
        return [json.dumps(image["fields"][field]) for image in images]
    return [json.dumps(without_version(name)) for name in names]


def without_version(name: str) -> str:
    """Returns the part of a file name that Roboflow's versions of it share."""
    return name.partition(_ROBOFLOW_VERSION)[0]


def keys_of_names(names: Sequence[str], expression: str, option: str) -> list[str]:
    """Returns the text that the group of a regular expression matches in file names.

    Args:
      names: file names.
      expression: regular expression, which is searched for.
      option: field of the config that has it, for messages.

    Raises:
      InputError: the expression is wrong, or not found in a name.
    """
    shown = f"{option} {expression!r}"
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise InputError(
            f"{shown} is not a regular expression ({error}): correct it"
        ) from error
    if not pattern.groups:
        raise InputError(
            f"{shown} has no group: enclose in parentheses what is equal in the names "
            "of the images of a group"
        )
    found = [match[1] if (match := pattern.search(name)) else None for name in names]
    lacking = [name for name, key in zip(names, found, strict=True) if key is None]
    if len(lacking) == len(names):
        raise InputError(
            f"{shown} matches no file name, such as {names[0]}: correct it"
        )
    if lacking:
        raise InputError(
            f"{some_of(lacking, names)} with a file name that {shown} does not match, "
            f"such as {lacking[0]}: correct it"
        )
    return [key for key in found if key is not None]


def some_of(part: Sequence, total: Sequence) -> str:
    """Returns "there are 3 of 12 images"."""
    verb = "is" if len(part) == 1 else "are"
    return f"there {verb} {len(part):,} of {len(total):,} images"


def hold_out(
    images: Sequence[Mapping[str, Any]], share: float, field: str
) -> np.ndarray:
    """Chooses the images that are held out for validation.

    Images that belong together (`group_keys`) are on one side. The choice depends on
    the names of the groups, or of the images without groups, and on nothing else: not
    on their order, and not on a seed.

    Args:
      images: `Copy.images`, at least two.
      share: dataset.held_out.
      field: result of `group_field`.

    Returns:
      bool [n], true for images that are held out.

    Raises:
      InputError: there are fewer than two groups.
    """
    groups = members(group_keys(images, field))
    if len(groups) < 2:
        what = f"group (field {field})" if field else "image"
        raise InputError(
            f"{len(groups)} {what} cannot be divided into training and validation "
            "images: add a validation split, or set dataset.group to another field"
        )
    target = max(1, round(share * len(images)))
    order = sorted(groups, key=key_hash)
    chosen: list[int] = []
    for key in order:
        if len(chosen) + len(groups[key]) <= target:
            chosen += groups[key]
    if not chosen:  # All groups are larger than the share.
        chosen = groups[min(order, key=lambda key: len(groups[key]))]
    mask = np.zeros(len(images), np.bool_)
    mask[chosen] = True
    return mask
