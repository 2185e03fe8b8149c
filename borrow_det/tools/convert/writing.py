"""The folder of a conversion: annotation files and images."""

import collections
import dataclasses
import json
import pathlib
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import tqdm

from borrow_det.errors import InputError
from borrow_det.io import paths
from borrow_det.tools.common.wording import counted
from borrow_det.tools.convert import shrink

IMAGES = ("copy", "link", "none")
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Converted:
    """One split in COCO's format.

    Attributes:
      name: name of the split.
      coco: content of its annotation file.
      files: path of each image by the name of the file to write below images/SPLIT.
    """

    name: str
    coco: dict[str, Any]
    files: dict[str, pathlib.Path]


def write(
    splits: Sequence[Converted],
    output: pathlib.Path,
    images: str,
    largest_side: int,
    bad_images: str,
) -> None:
    """Writes annotation files and images.

    After an error, nothing of it is left.

    Args:
      splits: the splits.
      output: folder to write, empty or absent.
      images: one of IMAGES: copies, symbolic links, or no images.
      largest_side: shrink copies to at most this height and width in pixels; 0: none.
      bad_images: with "skip", an image that does not decode when it should be shrunk is
        left out; with "error", it is an error.

    Raises:
      InputError: a file cannot be read or written.
    """
    skip = bad_images == "skip"
    try:
        for split in splits:
            coco, place = split.coco, output / "images" / split.name
            if largest_side:
                coco = _write_shrunk(split, largest_side, skip, place)
            elif images != "none":
                _write_images(split, images, place)
            file = output / "annotations" / f"{split.name}.json"
            paths.make_folder(file.parent)
            paths.write_whole(file, json.dumps(coco))
    except (InputError, OSError) as error:
        shutil.rmtree(output, ignore_errors=True)
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{error.filename or output} cannot be written: {paths.reason(error)}"
        ) from error


def _write_images(split: Converted, images: str, place: pathlib.Path) -> None:
    for name, path in _progress(split.name, split.files.items()):
        to = _with_folder(place / name)
        if images == "link":
            to.symlink_to(path.resolve())
        else:
            shutil.copyfile(path, to)


def _write_shrunk(
    split: Converted, largest: int, skip: bool, place: pathlib.Path
) -> dict[str, Any]:
    """Writes images, larger ones shrunk; returns the annotations that fit them."""
    of_image = collections.defaultdict(list)
    for annotation in split.coco["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    taken = set(split.files)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    count = 0
    for image in _progress(split.name, split.coco["images"]):
        path, own = split.files[image["file_name"]], of_image[image["id"]]
        try:
            shrunk = shrink.shrink(path, image, own, largest, taken)
        except InputError as error:
            if not skip:
                raise
            print(f"{split.name}: left out: {error}")
            continue
        if shrunk is None:
            shutil.copyfile(path, _with_folder(place / image["file_name"]))
        else:
            image, own, count = shrunk.image, shrunk.annotations, count + 1
            taken.add(image["file_name"])
            _with_folder(place / image["file_name"]).write_bytes(shrunk.content)
        images.append(image)
        annotations += own
    print(f"{split.name}: {counted(count, 'image')} shrunk")
    return {**split.coco, "images": images, "annotations": annotations}


def _with_folder(path: pathlib.Path) -> pathlib.Path:
    """Makes the folder of a file; returns the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _progress(name: str, images: Iterable[_T]) -> Iterable[_T]:
    """Returns the images of a split, and shows a bar while they are taken."""
    hidden = not sys.stderr.isatty()
    return tqdm.tqdm(images, desc=name, unit="image", leave=False, disable=hidden)
