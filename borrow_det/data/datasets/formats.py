"""Formats of folders with images and annotations, recognized by their files.

Every reader returns one split as `Annotations` and adds what is wrong with single
records to `Problems`, so that training, evaluation, `inspect` and `convert` treat all
formats alike.

supervision (0.31) reads most of these formats, too. It is not used here: its boxes are
float32, it stops at the first wrong record, it draws a mask for each polygon and does
not know difficult objects.
"""

import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from borrow_det.data.datasets import (
    cvat,
    folder_files,
    folder_layout,
    labelme,
    voc_xml,
    yolo,
    yolo_layout,
)
from borrow_det.data.datasets.split_files import SplitFiles
from borrow_det.errors import InputError
from borrow_det.evaluation import coco_format
from borrow_det.evaluation.annotations import Annotations
from borrow_det.io.problems import Problems

_SUGGESTED = 3  # Folders in a folder that a message names.


class Format(NamedTuple):
    """A format of annotations.

    Attributes:
      name: name for people, such as "YOLO".
      evidence: returns the name of a file or folder that shows the format, or "".
      splits: returns the splits of a folder by name; raises InputError if there are
        none or their names conflict.
      read: returns the content of a split, and adds its problems to the second
        argument; raises InputError if the split as a whole cannot be read. File names
        of images are paths relative to the folder if the reader found the images.
      absent: returns the names of splits that the folder mentions and does not have.
    """

    name: str
    evidence: Callable[[pathlib.Path], str]
    splits: Callable[[pathlib.Path], dict[str, SplitFiles]]
    read: Callable[[SplitFiles, Problems], Annotations]
    absent: Callable[[pathlib.Path], list[str]] = lambda folder: []

    def describe(self, folder: pathlib.Path) -> str:
        """Returns one line for a run's start: folder, format and splits.

        Raises:
          InputError: as `splits`.
        """
        splits = self.splits(folder)
        noun = "split" if len(splits) == 1 else "splits"
        others = [o.name for o in FORMATS if o.name != self.name and o.evidence(folder)]
        beside = f", not {' or '.join(others)}" if others else ""
        absent = [name for name in self.absent(folder) if name not in splits]
        without = f", without the images of {' and '.join(absent)}" if absent else ""
        return (
            f"{folder}: {self.name} ({self.evidence(folder)}){beside}, {noun} "
            f"{', '.join(splits)}{without}"
        )


def recognize(folder: pathlib.Path) -> Format:
    """Returns the format of the annotations in a folder.

    COCO files come before all others: they have the ids that results files need. YOLO's
    data.yaml alone, without label files, does not count beside another format.

    Raises:
      InputError: the folder is missing, or has annotations of none of the formats or of
        several.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: correct dataset.path")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise InputError(f"{folder} cannot be read: permission denied")
    found = [(kind, kind.evidence(folder)) for kind in FORMATS]
    found = [(kind, evidence) for kind, evidence in found if evidence]
    if len(found) > 1 and not yolo_layout.has_labels(folder):
        found = [(kind, evidence) for kind, evidence in found if kind != YOLO]
    if not found and any(folder.glob("*.json")):
        return COCO  # Damaged files, or files of another content: its reader says so.
    if not found:
        raise InputError(_nothing_found(folder))
    if len(found) > 1 and found[0][0] != COCO:
        names = " and ".join(f"{kind.name} ({evidence})" for kind, evidence in found)
        raise InputError(
            f"{folder} has annotations in several formats, {names}: move all but "
            "one of them to another folder"
        )
    return found[0][0]


def _nothing_found(folder: pathlib.Path) -> str:
    """Returns the message for a folder without annotations of a known format."""
    inner = [
        place.name
        for place in folder_files.folders(folder)
        if any(kind.evidence(place) for kind in FORMATS)
    ]
    if not inner and yolo_layout.has_labels(folder):
        return (
            f"{folder} has YOLO's label files, but no names of their classes: add "
            "data.yaml with the list names, or classes.txt with one name per line"
        )
    several = " or ".join(str(folder / name) for name in inner[:_SUGGESTED])
    advice = f": did you mean {several}?" if inner else "."
    return (
        f"{folder} has no annotations of a known format{advice} Looked for COCO "
        "(annotations/NAME.json, NAME/_annotations.coco.json or NAME.json), YOLO "
        "(data.yaml, or classes.txt with labels/), Pascal VOC (XML files beside the "
        "images, in Annotations/ or in NAME/), CVAT (annotations.xml) and LabelMe "
        "(JSON files beside the images)"
    )


def _coco_evidence(folder: pathlib.Path) -> str:
    """Returns the name of an annotation file in COCO's format, or ""."""
    for pattern in ("annotations/*.json", "*/_annotations.coco.json", "*.json"):
        files = [f for f in sorted(folder.glob(pattern)) if not labelme.is_labelme(f)]
        # Any other JSON file may be in DIR.
        files = [f for f in files if pattern != "*.json" or _has_keys_of_coco(f)]
        if files:
            # Beside annotations, there may be other files, such as lists of classes.
            shown = min(files, key=lambda file: not _has_keys_of_coco(file))
            return folder_files.relative(folder, shown)
    return ""


def _has_keys_of_coco(path: pathlib.Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(2**16)
    except OSError:
        return False
    return any(f'"{key}"'.encode() in head for key in ("images", "annotations"))


def _coco_splits(folder: pathlib.Path) -> dict[str, SplitFiles]:
    files = folder_layout.find_splits(folder)
    return {name: SplitFiles(folder, name, found) for name, found in files.items()}


def _read_coco(split: SplitFiles, problems: Problems) -> Annotations:
    first, *others = split.files
    if others:  # Only now, because a split that nobody reads stops nobody.
        raise InputError(
            f"{first} and {others[0]} are both of the split {split.name}: rename one"
        )
    return coco_format.read_annotations(first, problems)


COCO = Format("COCO", _coco_evidence, _coco_splits, _read_coco)
YOLO = Format("YOLO", yolo.evidence, yolo.splits, yolo.read, yolo.absent)
VOC = Format("Pascal VOC XML", voc_xml.evidence, voc_xml.splits, voc_xml.read)
CVAT = Format("CVAT XML", cvat.evidence, cvat.splits, cvat.read)
LABELME = Format("LabelMe", labelme.evidence, labelme.splits, labelme.read)
FORMATS = (COCO, YOLO, VOC, CVAT, LABELME)
