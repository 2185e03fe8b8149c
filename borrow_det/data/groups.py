"""Groups of images, such as the frames of one video or the images of one camera."""

import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from borrow_det.data import sources
from borrow_det.data.datasets import folder_splits
from borrow_det.errors import InputError

_ADVICE = (
    "set references.field to a field of the images, or to a regular expression for "
    'file names, such as "(.*)_" (--group of borrow-det evaluate)'
)


class Groups(NamedTuple):
    """The images of a split by group.

    Attributes:
      members: int, the indices of the images of each group, in ascending order.
      group: int [n], the group of each image.
    """

    members: tuple[np.ndarray, ...]
    group: np.ndarray

    def others(self, index: int) -> np.ndarray:
        """Returns the indices of the other images of an image's group, ascending."""
        members = self.members[self.group[index]]
        return members[members != index]


def reference_groups(
    split: sources.Split, config: ml_collections.ConfigDict
) -> Groups | None:
    """Returns the groups of a split with references.kind=group; otherwise None.

    Raises:
      InputError: see `group_keys`.
    """
    return scored_groups(split, config) if config.references.kind == "group" else None


def scored_groups(
    split: sources.Split, config: ml_collections.ConfigDict
) -> Groups | None:
    """Returns the groups of a split whose lenders are counted in evaluation.

    They are those of the references. With references.field there are groups without
    references, too, so that both runs of a comparison have the same metrics.

    Raises:
      InputError: see `group_keys`.
    """
    if config.references.kind != "group" and not config.references.field:
        return None
    return make_groups(configured_keys(split, config))


def group_field(config: ml_collections.ConfigDict) -> str:
    """Returns the field that groups images as references; "" for a known one."""
    return config.references.field or config.dataset.group


def configured_keys(
    split: sources.Split, config: ml_collections.ConfigDict
) -> list[Hashable]:
    """Returns `group_keys` for the field that groups images as references."""
    option = "references.field" if config.references.field else "dataset.group"
    return group_keys(split, group_field(config), option)


def group_keys(
    split: sources.Split, field: str, option: str = "references.field"
) -> list[Hashable]:
    """Returns a key for each image of a split, equal for the images of a group.

    This reads annotations only.

    Args:
      split: the split.
      field: field of the images; or, with a parenthesis, a regular expression whose
        first group is the key, and which is searched for in file names; or "" for the
        first of `folder_splits.GROUP_FIELDS` that all images have.
      option: field of the config that has a regular expression, for messages.

    Raises:
      InputError: an image lacks the field, or the expression is wrong or not found in
        the name of an image.
    """
    images = split.descriptions
    if folder_splits.is_expression(field):
        names = [image["file_name"] for image in images]
        try:
            return list(folder_splits.keys_of_names(names, field, option))
        except InputError as error:
            raise InputError(f"{_name(split)}: {error}") from error
    if not field:
        # Two groups or more, if possible: others may be of one camera.
        field = folder_splits.group_field(images, "") or folder_splits.group_field(
            images, "", least_groups=1
        )
    if not field:
        raise InputError(
            f"{_name(split)}: no field that is known to group images is in all of "
            f"them ({', '.join(folder_splits.GROUP_FIELDS)}): {_ADVICE}"
        )
    return _keys_of_field(split, images, field)


def make_groups(keys: Sequence[Hashable]) -> Groups:
    """Returns the groups of images with equal keys, in the order of their first."""
    members = folder_splits.members(keys)
    number = {key: i for i, key in enumerate(members)}
    return Groups(
        tuple(np.array(indices) for indices in members.values()),
        np.array([number[key] for key in keys], int),
    )


def notices(split: sources.Split, groups: Groups | None) -> list[str]:
    """Returns a line if images of a split have no other image in their group."""
    if groups is None:
        return []
    alone = sum(len(members) == 1 for members in groups.members)
    if not alone:
        return []
    total = len(groups.group)
    share = f"all {total:,}" if alone == total > 1 else f"{alone:,} of {total:,}"
    words = ("is", "its", "it has") if alone == 1 else ("are", "their", "they have")
    return [
        f"{split.name}: {share} images {words[0]} alone in {words[1]} group: "
        f"{words[2]} no reference (references.field)"
    ]


def unreached_count(
    split: sources.Split, groups: Groups | None, count: int
) -> list[str]:
    """Returns a line if no image of a training split has `count` references."""
    most = 0 if groups is None else max(map(len, groups.members)) - 1
    if not 0 < most < count:  # Without any, `notices` says so.
        return []
    return [
        f"{split.name}: no group has more than {most + 1:,} images, so training with "
        f"references.count={most} equals that with {count:,}, in less time and memory"
    ]


def _keys_of_field(
    split: sources.Split, images: Sequence[Mapping[str, Any]], field: str
) -> list[Hashable]:
    """Returns the values of a field, as JSON."""
    lacking = [image for image in images if image["fields"].get(field) is None]
    if len(lacking) == len(images):
        known = sorted({name for image in images for name in image["fields"]})
        there = f"they have {', '.join(known)}" if known else "they have no fields"
        raise InputError(
            f"{_name(split)}: no image has the field {field!r}; {there}: {_ADVICE}"
        )
    if lacking:
        some = folder_splits.some_of(lacking, images)
        raise InputError(
            f"{_name(split)}: {some} without the field {field!r}, such as "
            f"{lacking[0]['file_name']}: complete the annotations, or {_ADVICE}"
        )
    return [json.dumps(image["fields"][field]) for image in images]


def _name(split: sources.Split) -> str:
    return f"{split.dataset} {split.name}"
