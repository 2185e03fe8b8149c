"""Folder layouts of datasets with COCO annotation files."""

import pathlib
import re

from borrow_det.errors import InputError

# Files in COCO's annotations folder that have no boxes, or those of instances_*.json.
_OTHER_TASKS = ("captions_", "person_keypoints_", "image_info_", "panoptic_", "stuff_")


def find_splits(folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, ...]]:
    """Finds a folder's annotation files by the names that annotation tools give them.

    These are `annotations/NAME.json` (COCO; if there are files `instances_NAME.json`,
    only these), `NAME/_annotations.coco.json` (Roboflow), and without any of them
    `NAME.json`.

    Returns:
      Split name to the path of its file, or of several files that conflict. Characters
      of NAME other than letters, digits and _ are replaced by _.

    Raises:
      InputError: the folder or annotation files are missing.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: correct dataset.path")
    found = [
        (file.stem, file)
        for file in sorted(folder.glob("annotations/*.json"))
        if not file.name.startswith(_OTHER_TASKS)
    ]
    instances = [pair for pair in found if pair[0].startswith("instances_")]
    found = [(name.removeprefix("instances_"), f) for name, f in instances or found]
    found += [
        (file.parent.name, file)
        for file in sorted(folder.glob("*/_annotations.coco.json"))
    ]
    found = found or [(file.stem, file) for file in sorted(folder.glob("*.json"))]
    if not found:
        raise InputError(
            f"{folder} has no COCO annotation file: add one for each split, as "
            "annotations/NAME.json, NAME/_annotations.coco.json or NAME.json"
        )
    splits: dict[str, tuple[pathlib.Path, ...]] = {}
    for name, file in found:
        name = re.sub(r"\W", "_", name, flags=re.ASCII)
        splits[name] = (*splits.get(name, ()), file)
    return splits


def image_places(
    folder: pathlib.Path, annotations: pathlib.Path, split: str
) -> list[pathlib.Path]:
    """Returns the usual folders of a split's images, in the order of the search.

    Args:
      folder: folder of the dataset.
      annotations: file or folder of the annotations.
      split: name of the split.
    """
    beside = annotations if annotations.is_dir() else annotations.parent
    return [
        beside,
        folder,
        folder / "images",
        folder / "images" / split,
        folder / split,
        folder / split / "images",
    ]
