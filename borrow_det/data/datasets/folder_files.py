"""Annotation files and images of a folder, found by the names that tools give them."""

import collections
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import PIL.Image

from borrow_det.data.datasets import split_files
from borrow_det.data.images import inputs, upright
from borrow_det.io import file_names

_ORIENTATION = 0x0112  # EXIF tag.
_ROTATED = (5, 6, 7, 8)  # Values of the tag that swap width and height.
# Folders of annotations of all splits, or of the only split.
PLAIN = (
    *("ann", "annotations", "json", "jsons", "label", "labels", "xml", "xmls"),
    *("img", "images", "jpegimages"),
)
_PICTURES = ("JPEGImages", "images", "Images", "img")
_NO_LIMIT = 2**62  # Pixels.
_TRIED = 5  # Files of a folder that are opened to recognize a format.


def annotation_folders(
    folder: pathlib.Path, suffix: str, is_ours: Callable[[pathlib.Path], bool]
) -> list[tuple[str, pathlib.Path]]:
    """Finds folders with an annotation file for each image.

    These are DIR, DIR/annotations and DIR/images (the split "train"), DIR/NAME,
    DIR/annotations/NAME, DIR/images/NAME and DIR/NAME/annotations (the split NAME).

    Args:
      folder: folder of the dataset, DIR.
      suffix: suffix of the files, such as ".xml".
      is_ours: returns true for a file of the format.

    Returns:
      (name of the split, folder of its files) of each split, in the order of the names.
    """
    found = []
    for place in [folder, *folders(folder)]:
        for inner in [place, *(folders(place) if place != folder else [])]:
            parts = inner.relative_to(folder).parts
            names = [part for part in parts if part.lower() not in PLAIN]
            if len(names) < 2 and any(map(is_ours, _first(inner, suffix))):
                found.append((names[0] if names else "train", inner))
    return sorted(found)


def divided_by_images(
    folder: pathlib.Path, found: list[tuple[str, pathlib.Path]], suffix: str
) -> list[tuple[str, list[pathlib.Path]]]:
    """Divides annotation files into splits by the folders of their images.

    Files in a single folder without the name of a split are divided if there are images
    with their stems in DIR/images/NAME, DIR/NAME or DIR/NAME/images, where NAME is a
    usual name of a split. Files without such an image are of the training split.

    Args:
      folder: folder of the dataset, DIR.
      found: result of `annotation_folders`.
      suffix: suffix of the files.

    Returns:
      (name of the split, [folder of its files]) of each split, or (name of the split,
      [folder, files]) if they are divided.
    """
    undivided = [(name, [place]) for name, place in found]
    if len(found) != 1 or any(
        part.lower() not in PLAIN for part in found[0][1].relative_to(folder).parts
    ):
        return undivided
    ((_, place),) = found
    splits_of: dict[str, set[str]] = {}
    for parent in (folder, *(folder / name for name in _PICTURES)):
        for inner in folders(parent) if parent.is_dir() else []:
            if inner.name.lower() in split_files.USUAL_NAMES:
                for image in [*images_in(inner), *images_in(inner / "images")]:
                    splits_of.setdefault(image.stem, set()).add(inner.name)
    names = {name for splits in splits_of.values() for name in splits}
    train = next((name for name in sorted(names) if name.lower() == "train"), "train")
    divided: dict[str, list[pathlib.Path]] = {}
    for file in files_with(place, (suffix,)):
        stem = os.path.splitext(file.stem)[0] if is_image(file.stem) else file.stem
        for name in splits_of.get(stem, {train}):
            divided.setdefault(name, [place]).append(file)
    return sorted(divided.items()) if set(divided) - {train} else undivided


def files_with(folder: pathlib.Path, suffixes: Iterable[str]) -> list[pathlib.Path]:
    """Returns the files directly in a folder with one of the suffixes, sorted."""
    wanted = tuple(suffixes)
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return [
        folder / name
        for name in sorted(names)
        if name.lower().endswith(wanted) and not name.startswith(".")
    ]


def folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders directly in a folder, sorted.

    Hidden ones are left out, those without permission to read them, such as lost+found,
    and that of macOS's zip files, which has no images.
    """
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if _is_open_folder(entry)]
    return [
        folder / name
        for name in sorted(names)
        if not name.startswith(".") and name != "__MACOSX"
    ]


def _is_open_folder(entry: os.DirEntry) -> bool:
    """Returns true for a folder, or a link to one, whose files can be read."""
    try:
        return entry.is_dir() and os.access(entry.path, os.R_OK | os.X_OK)
    except OSError:  # A link to itself.
        return False


def images_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the images directly in a folder, sorted."""
    return files_with(folder, inputs.IMAGE_SUFFIXES)


def images_below(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the images in a folder and its subfolders, except hidden ones, sorted.

    Links to folders are followed, each folder once.
    """
    return sorted(
        path
        for path in inputs.files_once(folder, None, collections.Counter())
        if is_image(path.name) and path.name[0] != "." and os.path.isfile(path)
    )


def is_image(name: str) -> bool:
    """Returns true if the suffix of a file name is that of an image."""
    return os.path.splitext(name)[1].lower() in inputs.IMAGE_SUFFIXES


def relative(folder: pathlib.Path, path: pathlib.Path) -> str:
    """Returns a path relative to a folder, with slashes; unchanged if it is outside."""
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:
        return str(path)


class ImageFinder:
    """Finds the images that the annotation files of a split name."""

    def __init__(self, folder: pathlib.Path, split: str):
        """Reads the names of the files in the folder of the dataset."""
        self._folder = folder
        self._split = split
        self._index = file_names.FileIndex(folder)
        self._places: dict[pathlib.Path, list[pathlib.Path]] = {}

    def find(self, annotation: pathlib.Path, *names: str) -> str | None:
        """Returns an image's path relative to the folder, or None if there is none.

        Args:
          annotation: annotation file.
          names: names of the image in the annotation file, tried in their order. An
            image in a likely folder with the stem of the annotation file is preferred
            to one with another stem: files were renamed, but not the names in them.
        """
        places = self._likely_folders(annotation.parent)
        named = (self._resolve(name, places) for name in names if name)
        found = next(filter(None, named), None)
        if found is None or found.stem != annotation.stem:
            own = self._resolve(annotation.stem, places)
            if found is None or (own is not None and own.parent in places):
                found = own
        return None if found is None else relative(self._folder, found)

    def _resolve(self, name: str, places: list[pathlib.Path]) -> pathlib.Path | None:
        found = self._index.resolve(name, places).found
        if found is None or not is_image(found.name):
            return None
        return pathlib.Path(os.path.normpath(found))

    def _likely_folders(self, annotations: pathlib.Path) -> list[pathlib.Path]:
        """Returns the folders that may have the images, the most likely first."""
        if annotations in self._places:
            return self._places[annotations]
        above = annotations.parent if annotations != self._folder else annotations
        roots = [annotations, above, self._folder / self._split, self._folder]
        pictures = [root / name for root in roots for name in _PICTURES]
        splits = [path / self._split for path in (*pictures, annotations)]
        found = dict.fromkeys([annotations, *splits, *pictures, *roots[1:]])
        self._places[annotations] = [path for path in found if path.is_dir()]
        return self._places[annotations]


class Sizes(NamedTuple):
    """(height, width) of an image, after EXIF's rotation and as stored in the file."""

    upright: tuple[int, int]
    stored: tuple[int, int]


def image_sizes(path: pathlib.Path) -> Sizes:
    """Reads the sizes of an image from its header.

    The number of pixels is not limited, because they are not decoded.

    Raises:
      InputError: the header is not that of an image.
    """
    with (
        upright.errors_named(path, _NO_LIMIT, ""),
        upright.pixel_limit(_NO_LIMIT),
        PIL.Image.open(path) as image,
    ):
        width, height = image.size
        # The method of PNG files decodes all pixels before it looks.
        exif = PIL.Image.Image.getexif(image)
    rotated = exif.get(_ORIENTATION) in _ROTATED
    return Sizes((width, height) if rotated else (height, width), (height, width))


def _first(folder: pathlib.Path, suffix: str) -> list[pathlib.Path]:
    return files_with(folder, (suffix,))[:_TRIED]
