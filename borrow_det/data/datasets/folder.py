"""Datasets of a user: folders of images with annotations in any known format."""

import collections
import contextlib
import pathlib
from collections.abc import Collection, Iterable, Mapping, Sequence

import ml_collections
import numpy as np

from borrow_det.data.datasets import (
    folder_copy,
    folder_layout,
    folder_splits,
    folds,
    formats,
    records,
    split_files,
)
from borrow_det.data.datasets.folder_content import Source
from borrow_det.data.datasets.folder_copy import Copy
from borrow_det.data.datasets.folder_records import FolderRecords
from borrow_det.data.datasets.folder_splits import Part
from borrow_det.data.datasets.folds import Division
from borrow_det.data.datasets.opened import OpenedSet
from borrow_det.data.datasets.split_files import SplitFiles
from borrow_det.errors import InputError, check_choice
from borrow_det.evaluation.annotations import Category
from borrow_det.evaluation.coco_values import id_key, id_order
from borrow_det.io import file_names, paths
from borrow_det.io.problems import Problem, Problems

BAD_IMAGES = ("error", "skip")
_INT64 = range(-(2**63), 2**63)


def open_set(
    dataset_config: ml_collections.ConfigDict,
    split_names: Collection[str],
    refuse: bool = True,
) -> OpenedSet:
    """Opens splits of the folder dataset.path, after preparing them if necessary.

    Only these splits are read.

    Args:
      dataset_config: config.dataset; path, data_dir, train_split, eval_splits,
        held_out, folds, fold, group, max_pixels and the policies are used.
      split_names: names of complete splits. `val`, `valid`, `validation` and `dev`
        are names of the same split; without it, images are held out of the training
        split. With folds, it is the fold that is evaluated.
      refuse: whether problems that the policies do not allow are an error. Otherwise
        wrong records and bad images are left out, and bad boxes are clipped.

    Raises:
      InputError: a split is unknown or cannot be read, the copy cannot be
        written, or there are problems; the message counts them by kind and names a
        report with all of them.
    """
    check_choice("dataset.bad_images", dataset_config.bad_images, BAD_IMAGES)
    path = _folder_path(dataset_config.path)
    kind = formats.recognize(path)
    files = kind.splits(path)
    shown = f"{path} (read as {kind.name})"
    parts = _choose(dataset_config, split_names, files, shown)
    needed = dict.fromkeys(part.split for members in parts.values() for part in members)
    copies = _open_copies(
        kind, {split: files[split] for split in needed}, dataset_config
    )
    categories = merge_categories(
        {split: copy.categories for split, copy in copies.items()}
    )
    if refuse:
        _refuse(copies, dataset_config, path)
    division = folds.divide(copies, parts, dataset_config, path)
    # Images of two splits may have one id; the name of the split tells them apart.
    unique = division is None or not division.ids_repeat
    numbered = not (unique and all(_are_numbers(copy) for copy in copies.values()))
    policy = dataset_config.bad_boxes
    if policy == "error":  # Copies without bad boxes, unless the caller wants them.
        policy = "clip"
    label_of = {id_key(category.id): i for i, category in enumerate(categories)}
    notices = [kind.describe(path), *([division.notice(path)] if division else [])]
    opened: dict[str, list[FolderRecords]] = {name: [] for name in parts}
    for name, part in ((n, part) for n, members in parts.items() for part in members):
        copy = copies[part.split]
        indices, notice = _select(copy, part, division, dataset_config, name, path)
        notices += [line for line in notice if line not in notices]
        labels = [label_of[id_key(category.id)] for category in copy.categories]
        prefix = "" if unique or part.held_out is None else f"{part.split}/"
        opened[name].append(
            FolderRecords(
                copy, policy, np.array(labels, np.int32), indices, numbered, prefix
            )
        )
    counts = {name: _counts(opened[name], parts[name]) for name in parts}
    notices += _count_notices(copies, parts, counts, dataset_config)
    return OpenedSet(
        splits=opened,
        class_names=tuple(category.name for category in categories),
        category_ids=tuple(category.id for category in categories),
        convert=records.convert_folder,
        counts=counts,
        problems={
            name: tuple(
                p for part in parts[name] for p in _problems(copies[part.split])
            )
            for name in parts
        },
        notices=tuple(notices),
        folds=division.to_json() if division else {},
    )


def split_names(path: str) -> list[str]:
    """Returns the names of a folder's splits, in the order of the format's reader.

    Raises:
      InputError: the folder is missing or has no annotations of a known format.
    """
    folder = _folder_path(path)
    return list(formats.recognize(folder).splits(folder))


def _folder_path(path: str) -> pathlib.Path:
    if not path:
        raise InputError(
            "dataset.path is not set: set it to the folder of your images and "
            "annotations (--config=configs/folder.py:path=DIR)"
        )
    return paths.local_path(path, "dataset.path").absolute()


def _choose(
    dataset_config: ml_collections.ConfigDict,
    asked: Collection[str],
    files: Mapping[str, SplitFiles],
    dataset: str,
) -> dict[str, tuple[Part, ...]]:
    train = _complete_names([dataset_config.train_split])
    evaluated = _complete_names(dataset_config.eval_splits)
    if dataset_config.folds:
        return folds.choose(asked, list(files), train, evaluated, dataset)
    parts = folder_splits.choose(
        asked,
        list(files),
        in_config=[*train, *evaluated],
        train=train[0] if train else "",
        held_out=dataset_config.held_out,
        dataset=dataset,
    )
    return {name: (part,) for name, part in parts.items()}


def _complete_names(names: Iterable[str]) -> list[str]:
    """Returns the names of splits without slices: train[:9]+val -> train, val."""
    return [
        part.partition("[")[0].strip() for name in names for part in name.split("+")
    ]


def _open_copies(
    kind: formats.Format,
    files: Mapping[str, SplitFiles],
    dataset_config: ml_collections.ConfigDict,
) -> dict[str, Copy]:
    """Opens the copies of splits; one split that cannot be read stops no other.

    Raises:
      InputError: a split cannot be read; the message has all such splits.
    """
    read, errors = [], []
    for split in files.values():
        try:
            read.append(read_source(kind, split, dataset_config.max_pixels))
        except InputError as error:
            errors.append(str(error))
    if errors:
        raise InputError("; ".join(errors))
    return {
        source.split: folder_copy.open_copy(source, dataset_config.data_dir)
        for source in read
    }


def read_source(kind: formats.Format, files: SplitFiles, max_pixels: int = 0) -> Source:
    """Reads the annotations of a split and finds its images.

    Args:
      kind: format of the folder.
      files: files of the split.
      max_pixels: dataset.max_pixels.

    Raises:
      InputError: the split cannot be read, or has no images or categories.
    """
    problems = Problems()
    annotations = kind.read(files, problems)
    of_images = split_files.IMAGE_PROBLEMS
    missing = Problems(problem for problem in problems if problem.kind in of_images)
    # Without images or categories, every object refers to an unknown one.
    others = any(not p.record.startswith("annotations[") for p in problems)
    if not annotations.images and not others:
        raise InputError(
            f"{annotations.path} lists no images: remove it, or add images"
        )
    if not annotations.categories and not others:
        raise InputError(f"{annotations.path} lists no categories: add them")
    index = file_names.FileIndex(files.folder)
    places = folder_layout.image_places(files.folder, annotations.path, files.name)
    found: list[pathlib.Path | None] = []
    for image in annotations.images:
        match = index.resolve(image.file_name, places)
        found.append(match.found)
        if match.found is None:
            reason = file_names.reason(image.file_name, match, files.folder)
            kind_ = "ambiguous file name" if match.candidates else "missing image"
            missing.add(kind_, annotations.path, image.record, reason)
    return Source(
        folder=files.folder,
        split=files.name,
        annotations=annotations,
        paths=found,
        annotation_problems=tuple(p for p in problems if p.kind not in of_images),
        image_problems=tuple(missing),
        max_pixels=max_pixels,
    )


def _problems(copy: Copy) -> list[Problem]:
    """Returns everything that is wrong with a split."""
    kinds = ("annotations", "images", "boxes")
    return [problem for kind in kinds for problem in copy.problems(kind)]


def _refuse(
    copies: Mapping[str, Copy],
    dataset_config: ml_collections.ConfigDict,
    path: pathlib.Path,
) -> None:
    """Raises InputError for the problems that the policies do not allow."""
    refused, advice = Problems(), ["Correct the files"]
    kinds = {
        "annotations": (True, ""),
        "images": (
            dataset_config.bad_images == "error",
            "set dataset.bad_images=skip to leave bad images out",
        ),
        "boxes": (
            dataset_config.bad_boxes == "error",
            "set dataset.bad_boxes to clip or drop for bad boxes",
        ),
    }
    for kind, (is_refused, other_way) in kinds.items():
        found = [p for copy in copies.values() for p in copy.problems(kind)]
        if is_refused and found:
            refused.extend(found)
            advice += [other_way] if other_way else []
    report = folder_copy.place(path, dataset_config.data_dir) / "problems.json"
    with contextlib.suppress(OSError):  # It may be another user's.
        report.unlink()
    refused.refuse(report, ", or ".join(advice))
    for name, copy in copies.items():
        if not len(copy):
            raise InputError(
                f"{path}: no image of the split {name} can be read: add images"
            )


def merge_categories(splits: Mapping[str, Sequence[Category]]) -> list[Category]:
    """Merges the categories of splits; checks that they agree on the names.

    Raises:
      InputError: two splits have other names for one id, or none has a category.
    """
    merged: dict[str, Category] = {}
    origin: dict[str, str] = {}
    for split, categories in splits.items():
        for category in categories:
            key = id_key(category.id)
            known = merged.setdefault(key, category)
            if _plain_name(known) != _plain_name(category):
                raise InputError(
                    f"{split} calls category {category.id} {category.name!r}, and "
                    f"{origin[key]} calls it {known.name!r}: use the same categories "
                    "in both"
                )
            origin.setdefault(key, split)
    ordered = sorted(merged.values(), key=lambda category: id_order(category.id))
    names: list[str] = []
    for category in ordered:
        name = _plain_name(category)
        while name in names:
            name += f" ({category.id})"
        names.append(name)
    return [
        Category(category.id, name)
        for category, name in zip(ordered, names, strict=True)
    ]


def _plain_name(category: Category) -> str:
    """Returns a name without the id that distinguishes repeated names of a file."""
    return category.name.removesuffix(f" ({category.id})")


def _are_numbers(copy: Copy) -> bool:
    return all(
        isinstance(image["id"], int) and image["id"] in _INT64 for image in copy.images
    )


def _select(
    copy: Copy,
    part: Part,
    division: Division | None,
    dataset_config: ml_collections.ConfigDict,
    name: str,
    path: pathlib.Path,
) -> tuple[np.ndarray, list[str]]:
    """Returns the indices of the images of a part of an asked split, and notices."""
    if division and part.held_out is not None:
        return division.indices(part), []
    if part.held_out is None:
        renamed = [f"{name} is the split {part.split} of {path}"]
        return np.arange(len(copy)), renamed if name != part.split else []
    if not part.held_out and len(copy) < 2:  # The run itself fails without validation.
        return np.arange(len(copy)), []
    try:
        field = folder_splits.group_field(copy.images, dataset_config.group)
        mask = folder_splits.hold_out(copy.images, dataset_config.held_out, field)
    except InputError as error:
        raise InputError(f"{path}, split {part.split}: {error}") from error
    by_group = f", whole groups by {field}" if field else ""
    notice = (
        f"{path} has no validation split: {mask.sum():,} of the {len(mask):,} images "
        f"of {part.split} are held out for validation (dataset.held_out="
        f"{dataset_config.held_out:g}{by_group})"
    )
    return np.flatnonzero(mask if part.held_out else ~mask), [notice]


def _counts(members: Sequence[FolderRecords], parts: Sequence[Part]) -> dict[str, int]:
    """Returns the counts of a split for dataset.json."""
    counts: collections.Counter[str] = collections.Counter()
    for split, part in zip(members, parts, strict=True):
        counts.update(split.counts())
        skipped = len(split.copy.problems("images"))
        if skipped and not part.held_out:
            counts["skipped_images"] += skipped
    return dict(counts)


def _count_notices(
    copies: Mapping[str, Copy],
    parts: Collection[str],
    counts: Mapping[str, Mapping[str, int]],
    dataset_config: ml_collections.ConfigDict,
) -> list[str]:
    """Returns a line about each split with bad images or boxes."""
    notices = []
    for name, copy in copies.items():
        for defect, count in copy.repairs.items():
            images = "image was" if count == 1 else "images were"
            reason = defect.replace("it ", "the file ", 1)
            notices.append(f"{name}: {count} {images} repaired: {reason}")
        if skipped := Problems(copy.problems("images")):
            images = "1 image" if len(skipped) == 1 else f"{len(skipped):,} images"
            kinds = ", ".join(f"{kind}: {n}" for kind, n in skipped.counts().items())
            notices.append(
                f"{name}: dataset.bad_images=skip left out {images} "
                f"({kinds}), the first: {next(iter(skipped))}"
            )
    for name in parts:
        clipped, dropped = counts[name]["clipped"], counts[name]["dropped"]
        if clipped or dropped:
            notices.append(
                f"{name}: dataset.bad_boxes={dataset_config.bad_boxes} clipped "
                f"{clipped} boxes and dropped {dropped}"
            )
    return notices
