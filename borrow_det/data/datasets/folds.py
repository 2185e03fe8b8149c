"""Folds of a folder's images, for cross-validation.

With dataset.folds=K, the images of the training and the validation split are pooled and
divided into K folds of nearly equal numbers of images. A run evaluates one of them,
dataset.fold, as its validation split, and trains on the others. Other splits, such as
`test`, are not divided.

Images that belong together are in one fold: the groups of dataset.group, or of a known
field, which are distributed from the largest to the smallest. Without groups, images
are divided in the order of their file names, so that most neighbors, such as frames of
one video, are in one fold. The division depends on the groups or the names, and on
nothing else: not on the order of the images, and not on a seed.
"""

import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from borrow_det.data.datasets import folder_files, folder_splits, split_files
from borrow_det.data.datasets.folder_copy import Copy
from borrow_det.data.datasets.folder_splits import VALIDATION, Part, find_split
from borrow_det.errors import InputError
from borrow_det.evaluation.coco_values import id_key

# Names of folders that do not tell one place or time from another.
_PLAIN_FOLDERS = {*split_files.USUAL_NAMES, *folder_files.PLAIN}


class Division(NamedTuple):
    """The folds of the pooled splits.

    Attributes:
      folds: dataset.folds.
      fold: dataset.fold, the fold that is evaluated.
      field: what groups the images, of `folder_splits.group_field`; "" for file names.
      members: the fold of each image of each pooled split, int [n] by split.
      names: str [n], the file names of the images, by split.
      ids_repeat: whether images of two splits have the same id.
    """

    folds: int
    fold: int
    field: str
    members: Mapping[str, np.ndarray]
    names: Mapping[str, np.ndarray]
    ids_repeat: bool

    def indices(self, part: Part) -> np.ndarray:
        """Returns the indices of a part's images in their split, ascending."""
        inside = self.members[part.split] == self.fold
        return np.flatnonzero(inside if part.held_out else ~inside)

    def notice(self, path: pathlib.Path) -> str:
        """Returns a line for the start of a run."""
        sizes = np.bincount(np.concatenate([*self.members.values()]))
        how = f"whole groups by {self.field}" if self.field else "by file-name order"
        return (
            f"{path}: fold {self.fold} of the folds 0 to {self.folds - 1} is "
            f"evaluated, {sizes[self.fold]:,} of the {sizes.sum():,} images of "
            f"{' and '.join(self.members)} ({how}); the others are for training"
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the division as JSON, with the file names of each fold by split."""
        images = [
            {
                split: self.names[split][of == fold].tolist()
                for split, of in self.members.items()
            }
            for fold in range(self.folds)
        ]
        return {
            "folds": self.folds,
            "fold": self.fold,
            "group": self.field,
            "images": images,
        }


def choose(
    asked: Collection[str],
    known: Collection[str],
    train: Sequence[str],
    evaluated: Sequence[str],
    dataset: str,
) -> dict[str, tuple[Part, ...]]:
    """Finds the parts of a folder's splits that serve as the asked splits.

    Parts with `held_out` are the fold that is evaluated, and those without are the
    other folds.

    Args:
      asked: names of complete splits.
      known: names of the folder's splits.
      train: names of the complete splits in dataset.train_split.
      evaluated: names of the complete splits in dataset.eval_splits.
      dataset: path and format of the folder, for messages.

    Raises:
      InputError: a split is unknown, or dataset.train_split and dataset.eval_splits
        do not name one training split and a validation split.
    """
    if len({*train}) != 1 or {*train} & {*VALIDATION}:
        raise InputError(
            f"dataset.train_split has the splits {', '.join(train)}: with "
            "dataset.folds, name the training split alone, since its images and those "
            "of the validation split are divided"
        )
    validation = [name for name in evaluated if name in VALIDATION]
    if not validation:
        raise InputError(
            "dataset.folds divides the images of the training and the validation "
            f"split, but dataset.eval_splits has only {', '.join(evaluated)}: add val"
        )
    whole = find_split(train[0], known)
    if not whole:
        folder_splits.check_split_names(dataset, train, known)
    present = [found for name in VALIDATION if (found := find_split(name, known))]
    named = [found for name in validation if (found := find_split(name, known))]
    pooled = tuple(dict.fromkeys([whole, *(named or present[:1])]))
    parts: dict[str, tuple[Part, ...]] = {}
    for name in asked:
        found = find_split(name, known)
        if found == whole:
            parts[name] = tuple(Part(split, held_out=False) for split in pooled)
        elif found and found not in pooled:
            parts[name] = (Part(found),)
        elif found or name in VALIDATION:
            parts[name] = tuple(Part(split, held_out=True) for split in pooled)
        else:
            folder_splits.check_split_names(dataset, [name], known)
    return parts


def divide(
    copies: Mapping[str, Copy],
    parts: Mapping[str, Sequence[Part]],
    dataset_config: ml_collections.ConfigDict,
    path: pathlib.Path,
) -> Division | None:
    """Divides the images of the pooled splits into folds.

    Args:
      copies: the copies of splits, by name.
      parts: the parts of the asked splits; see `choose`.
      dataset_config: config.dataset; folds, fold and group are used.
      path: the folder, for messages.

    Returns:
      The folds; None without dataset.folds, or if no asked split has any.

    Raises:
      InputError: there are fewer groups than folds, or dataset.group does not fit.
    """
    members = [part for of_split in parts.values() for part in of_split]
    if not dataset_config.folds or all(part.held_out is None for part in members):
        return None
    pooled = {
        part.split: copies[part.split] for part in members if part.held_out is not None
    }
    images = [image for copy in pooled.values() for image in copy.images]
    try:
        field = folder_splits.group_field(images, dataset_config.group)
        fold = assign(images, dataset_config.folds, field)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    ends = np.cumsum([len(copy) for copy in pooled.values()])[:-1]
    ids = [id_key(image["id"]) for image in images]
    return Division(
        folds=dataset_config.folds,
        fold=dataset_config.fold,
        field=field,
        members=dict(zip(pooled, np.split(fold, ends), strict=True)),
        names={
            split: np.array([image["file_name"] for image in copy.images], object)
            for split, copy in pooled.items()
        },
        ids_repeat=len({*ids}) < len(ids),
    )


def assign(images: Sequence[Mapping[str, Any]], folds: int, field: str) -> np.ndarray:
    """Returns the fold of each image, int [n] in [0, folds).

    Args:
      images: `Copy.images`.
      folds: number of folds, at least 2.
      field: result of `folder_splits.group_field`.

    Raises:
      InputError: there are fewer groups than folds.
    """
    if field:
        groups = folder_splits.members(folder_splits.group_keys(images, field))
        order = sorted(
            groups, key=lambda key: (-len(groups[key]), folder_splits.key_hash(key))
        )
        units = [groups[key] for key in order]
    else:
        pictures = folder_splits.members([_picture(i["file_name"]) for i in images])
        units = [pictures[name] for name in sorted(pictures, key=_natural)]
    if len(units) < folds:
        what = f"groups by {field}" if field else "images"
        raise InputError(
            f"dataset.folds is {folds}, but there are only {len(units)} {what}: set a "
            "smaller number, or dataset.group to another field"
        )
    of_unit = (_balanced if field else _consecutive)([len(u) for u in units], folds)
    fold = np.empty(len(images), int)
    for unit, number in zip(units, of_unit, strict=True):
        fold[unit] = number
    return fold


def _balanced(sizes: Sequence[int], folds: int) -> list[int]:
    """Returns the fold of each unit: the one with the fewest images so far."""
    images = np.zeros(folds, int)
    chosen = []
    for size in sizes:
        fold = int(images.argmin())
        images[fold] += size
        chosen.append(fold)
    return chosen


def _consecutive(sizes: Sequence[int], folds: int) -> list[int]:
    """Returns the fold of each unit, ascending; every fold has a unit."""
    middles = np.cumsum(sizes) - np.array(sizes) / 2
    wanted = (middles * folds / sum(sizes)).astype(int)
    chosen: list[int] = []
    for unit, fold in enumerate(wanted.tolist()):
        # Enough units are left for the folds that follow.
        least = folds - (len(sizes) - unit)
        chosen.append(min(max(fold, least), chosen[-1] + 1 if chosen else 0))
    return chosen


def _picture(file_name: str) -> str:
    """Returns a name that is equal for the versions of one picture.

    Folders such as train/images are left out, so that neighbors that a division into
    training and validation images has separated are neighbors again.
    """
    *folders, name = file_name.replace("\\", "/").split("/")
    kept = [folder for folder in folders if folder.lower() not in _PLAIN_FOLDERS]
    return "/".join([*kept, folder_splits.without_version(name)])


def _natural(name: str) -> tuple[list[str | int], str]:
    """Returns a sort key that orders numbers in names by their values."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name
