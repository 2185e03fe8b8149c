"""Formats of folders with images and annotations, recognized by their files.

Every reader returns one split as `Annotations` and adds what is wrong with single
records to `Problems`, so that training, evaluation, `inspect` and `convert` treat all
formats alike.
"""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

from borrow_det.data.datasets import folder_layout, split_files
from borrow_det.data.datasets.split_files import SplitFiles
from borrow_det.errors import InputError
from borrow_det.evaluation import coco_format
from borrow_det.io.problems import Problems


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
    """

    name: str
    evidence: Callable[[pathlib.Path], str]
    splits: Callable[[pathlib.Path], dict[str, SplitFiles]]
    read: Callable[[SplitFiles, Problems], coco_format.Annotations]

    def describe(self, folder: pathlib.Path) -> str:
        """Returns one line for a run's start: folder, format and splits.

        Raises:
          InputError: as `splits`.
        """
        evidence = self.evidence(folder)
        title = f"{self.name} ({evidence})" if evidence else self.name
        return split_files.describe(folder, title, self.splits(folder))


def recognize(folder: pathlib.Path) -> Format:
    """Returns the format of the annotations in a folder.

    Raises:
      InputError: the folder is missing, has annotations of none of the formats, or of
        several.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: correct dataset.path")
    return COCO


def _coco_evidence(folder: pathlib.Path) -> str:
    for pattern in ("annotations/*.json", "*/_annotations.coco.json", "*.json"):
        for file in sorted(folder.glob(pattern)):
            return str(file.relative_to(folder))
    return ""


def _coco_splits(folder: pathlib.Path) -> dict[str, SplitFiles]:
    files = folder_layout.find_splits(folder)
    return {name: SplitFiles(folder, name, (file,)) for name, file in files.items()}


def _read_coco(split: SplitFiles, problems: Problems) -> coco_format.Annotations:
    return coco_format.read_annotations(split.files[0], problems)


COCO = Format("COCO", _coco_evidence, _coco_splits, _read_coco)
