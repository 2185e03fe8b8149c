"""Splits of a folder before they are read, in any format."""

import dataclasses
import pathlib
import re
from collections.abc import Iterable

from borrow_det.errors import InputError

# Kinds of problems that dataset.bad_images covers. The image is left out.
IMAGE_PROBLEMS = (
    "missing image",
    "ambiguous file name",
    "damaged image",
    "image above the limit of pixels",
    "image of another size",
)

# Names of splits that folders of images have, the training split first.
USUAL_NAMES = ("train", "val", "valid", "validation", "dev", "test")


@dataclasses.dataclass(frozen=True)
class SplitFiles:
    """The files of one split.

    Attributes:
      folder: folder of the dataset, dataset.path.
      name: name of the split: letters, digits and _.
      files: annotation files, or folders and lists of images, in the way of the
        format. The first is the one that messages name.
    """

    folder: pathlib.Path
    name: str
    files: tuple[pathlib.Path, ...]


def by_name(
    folder: pathlib.Path, found: Iterable[tuple[str, Iterable[pathlib.Path]]]
) -> dict[str, SplitFiles]:
    """Returns splits by name.

    Args:
      folder: folder of the dataset.
      found: (name, files) of each split. Characters of the name other than letters,
        digits and _ are replaced by _.

    Raises:
      InputError: two splits have the same name.
    """
    splits: dict[str, SplitFiles] = {}
    for name, files in found:
        split = SplitFiles(folder, split_name(name), tuple(files))
        other = splits.setdefault(split.name, split)
        if other is not split:
            raise InputError(
                f"{split.files[0]} and {other.files[0]} are both of the split "
                f"{split.name}: rename one"
            )
    return splits


def split_name(text: str) -> str:
    """Returns a name with _ for all characters other than letters, digits and _."""
    return re.sub(r"\W", "_", text, flags=re.ASCII)
