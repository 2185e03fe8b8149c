"""Folders in YOLO's layouts: class names, splits, and the label file of each image."""

import os
import pathlib
import re
import reprlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from borrow_det.data.datasets import folder_files, split_files
from borrow_det.data.datasets.split_files import SplitFiles
from borrow_det.errors import InputError
from borrow_det.io import paths

# Files with the names of the classes, one name per line.
_NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt")
_LABELS = ("labels", "Labels")
_LARGEST_YAML = 2**22  # Bytes.


class Classes(NamedTuple):
    """The classes of a folder.

    Attributes:
      file: file that names them.
      names: names by the index in label files.
      keypoints: numbers that follow the box in a line of a pose label; else 0.
    """

    file: pathlib.Path
    names: dict[int, str]
    keypoints: int = 0


def evidence(folder: pathlib.Path) -> str:
    """Returns the name of the file with the class names; "" if the folder has none."""
    file = _yaml_file(folder)
    if file is None and ((folder / "obj.data").is_file() or has_labels(folder)):
        file = _names_file(folder)
    return "" if file is None else folder_files.relative(folder, file)


def classes(folder: pathlib.Path) -> Classes:
    """Reads the classes of a folder.

    Raises:
      InputError: the file with the names is damaged or missing.
    """
    file = _yaml_file(folder)
    if file is not None:
        return _yaml_classes(file, _read_yaml(file))
    file = _names_file(folder)
    if file is None:
        raise InputError(
            f"{folder} has no data.yaml with the names of its classes: add it"
        )
    # An empty line between others counts.
    return Classes(file, dict(enumerate(_text(file).rstrip().splitlines())))


def splits(folder: pathlib.Path) -> dict[str, SplitFiles]:
    """Finds the splits of a folder.

    data.yaml names the images of each split by folders, lists of images, or several of
    them, and Darknet's obj.data by a list of images. Entries that do not exist are
    looked up in the folder by the end of their path: Roboflow writes `../train/images`
    for DIR/train/images, and others the folders of another machine. A split whose
    images are not there is left out.

    Without such entries, splits are found by their folders: DIR/images/NAME,
    DIR/NAME/images, DIR/NAME with images, and else the lists DIR/NAME.txt. The images
    of DIR/images or of DIR are the split "train".

    Raises:
      InputError: no split has images here, or names of splits conflict.
    """
    named = _named_places(folder)
    found = [(name, places) for name, (_, places) in named.items() if places]
    found = found or [(name, [place]) for name, place in _folders_of_splits(folder)]
    if not found:
        raise InputError(
            f"{folder} has none of the images that {_yaml_file(folder) or 'obj.data'} "
            f"names ({', '.join(f'{n}: {text}' for n, (text, _) in named.items())})"
            if named
            else f"{folder} has no folders of images for its label files"
        )
    return split_files.by_name(folder, found)


def absent(folder: pathlib.Path) -> list[str]:
    """Returns the splits that data.yaml names without their images being there."""
    return [name for name, (_, places) in _named_places(folder).items() if not places]


def _named_places(folder: pathlib.Path) -> dict[str, tuple[str, list[pathlib.Path]]]:
    """Returns the folders and lists of images that data.yaml or obj.data names.

    Returns:
      (text of the entry, places that exist) by the name of the split.
    """
    file = _yaml_file(folder)
    data = _darknet_data(folder) if file is None else _read_yaml(file)
    root = _root(folder, data)
    found: dict[str, tuple[str, list[pathlib.Path]]] = {}
    for name in split_files.USUAL_NAMES:
        value = data.get(name)
        values = value if isinstance(value, list) else [value]
        entries = [entry for entry in values if isinstance(entry, str) and entry]
        places = [_resolve(folder, root, entry) for entry in entries]
        if entries:
            existing = [place for place in places if place is not None]
            found[name] = reprlib.repr(value), existing
    return found


def _darknet_data(folder: pathlib.Path) -> dict[str, str]:
    """Returns the keys and values of obj.data; its paths start at another folder."""
    file = folder / "obj.data"
    lines = _text(file).splitlines() if file.is_file() else []
    pairs = [line.partition("=") for line in lines if "=" in line]
    return {
        key.strip(): pathlib.PurePosixPath(value.strip().replace("\\", "/")).name
        for key, _, value in pairs
    }


def images(split: SplitFiles) -> list[pathlib.Path]:
    """Returns the images of a split, sorted; those of a list may be missing.

    Raises:
      InputError: a list of images cannot be read.
    """
    found: dict[pathlib.Path, None] = {}
    for place in split.files:
        if place.is_dir():
            # The images of DIR itself are beside folders with other splits.
            below = (
                folder_files.images_in(place)
                if place == split.folder
                else folder_files.images_below(place)
            )
            found |= dict.fromkeys(below)
        else:
            found |= dict.fromkeys(_listed(split.folder, place))
    return sorted(found)


def label_file(folder: pathlib.Path, image: pathlib.Path) -> pathlib.Path:
    """Returns the label file of an image, which may be missing: no objects.

    It is in the folder `labels` in the place of the folder `images`, or else next to
    the image, or in DIR/labels.
    """
    beside = image.with_suffix(".txt")
    parts = list(beside.parts)
    candidates = []
    for index in reversed(range(len(parts) - 1)):
        if parts[index].lower() in ("images", "jpegimages"):
            candidates += [
                pathlib.Path(*parts[:index], name, *parts[index + 1 :])
                for name in _LABELS
            ]
            break
    candidates.append(beside)
    inside = beside.relative_to(folder) if beside.is_relative_to(folder) else beside
    for name in _LABELS:
        candidates.append(image.parent / name / beside.name)
        candidates.append(folder / name / inside)
        candidates.append(folder / name / beside.name)
    return next((path for path in candidates if os.path.isfile(path)), candidates[0])


def _yaml_file(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the YAML file that describes the dataset.

    Raises:
      InputError: several do, and none of them is called data.yaml.
    """
    for name in ("data.yaml", "data.yml"):
        if (folder / name).is_file():
            return folder / name
    found = []
    for file in folder_files.files_with(folder, (".yaml", ".yml")):
        try:
            data = _read_yaml(file)
        except InputError:
            continue
        if "names" in data and any(key in data for key in split_files.USUAL_NAMES):
            found.append(file)
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise InputError(
            f"{folder} has several YAML files of a dataset ({names}): call the one to "
            "use data.yaml"
        )
    return found[0] if found else None


def _read_yaml(file: pathlib.Path) -> Mapping[str, Any]:
    """Returns the content of a YAML file, whose scalars are texts.

    Raises:
      InputError: the file cannot be read, or is not YAML with keys and values.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(_LARGEST_YAML)
        # It makes texts of everything: `no` and `007` are names like others.
        data = yaml.load(content, Loader=yaml.BaseLoader)
    except OSError as error:
        raise InputError(f"{file}: {paths.reason(error)}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())  # It has several lines.
        raise InputError(f"{file} is not YAML: {reason}") from error
    if not isinstance(data, Mapping):
        raise InputError(f"{file} has no keys: YOLO's data.yaml has names, train, val")
    return data


def _yaml_classes(file: pathlib.Path, data: Mapping[str, Any]) -> Classes:
    names = data.get("names")
    if names is None and re.fullmatch("[0-9]{1,4}", str(data.get("nc")), re.ASCII):
        names = [str(index) for index in range(int(data["nc"]))]
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, Mapping) or not names:
        raise InputError(f"{file} has no names of classes: names must be a list")
    by_index: dict[int, str] = {}
    for key, value in names.items():
        if not re.fullmatch("[0-9]{1,9}", str(key)) or isinstance(
            value, list | Mapping
        ):
            raise InputError(
                f"{file}: names has the entry {reprlib.repr(key)}: "
                f"{reprlib.repr(value)}; it must be a number and a name"
            )
        by_index[int(key)] = str(value)
    return Classes(file, dict(sorted(by_index.items())), _keypoints(file, data))


def _keypoints(file: pathlib.Path, data: Mapping[str, Any]) -> int:
    shape = data.get("kpt_shape")
    if shape is None:
        return 0
    if (
        not isinstance(shape, list)
        or len(shape) != 2
        or not all(re.fullmatch("[0-9]{1,4}", str(size), re.ASCII) for size in shape)
    ):
        raise InputError(
            f"{file}: kpt_shape is {reprlib.repr(shape)}, not [number of keypoints, 2 "
            "or 3]"
        )
    return int(shape[0]) * int(shape[1])


def _root(folder: pathlib.Path, data: Mapping[str, Any]) -> pathlib.Path:
    """Returns the folder that entries are relative to: `path`, if that is there."""
    entry = data.get("path")
    if not isinstance(entry, str) or not entry:
        return folder
    place = folder / os.path.expanduser(entry)
    # A path that is too long for the system is no error here.
    return place if os.path.isdir(place) else folder


def _resolve(
    folder: pathlib.Path, root: pathlib.Path, entry: str
) -> pathlib.Path | None:
    """Returns the path of an entry of data.yaml or of a list of images, if it exists.

    What is in the folder comes before what is in a root outside: the dataset may be a
    copy whose `path` names the original. Paths that do not exist are searched in the
    folder by their last parts. A single part is not enough: many folders have `images`.
    """
    entry = entry.replace("\\", "/")
    # Roboflow means a folder inside. Another one above might have the same name.
    inside = [re.sub(r"^(\.\./)+", "", entry)] if entry.startswith("../") else []
    is_inside = pathlib.Path(os.path.normpath(root)).is_relative_to(folder)
    roots = (root, folder) if is_inside else (folder, root)
    for place in [place / name for name in (*inside, entry) for place in roots]:
        if os.path.exists(place):
            return pathlib.Path(os.path.normpath(place))
    parts = [part for part in entry.split("/") if part not in ("", ".", "..")]
    shortest = min(2, len(parts))
    for start in range(len(parts) - shortest + 1):
        place = folder.joinpath(*parts[start:])
        if os.path.exists(place):
            return place
    return None


def _folders_of_splits(folder: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
    """Finds folders of images, or lists of images, without data.yaml."""
    found = []
    for place in folder_files.folders(folder):
        if place.name.lower() == "labels":
            continue
        if place.name.lower() in ("images", "jpegimages"):
            inner = folder_files.folders(place)
            found += [(path.name, path) for path in inner if _shows_images(path)]
            if folder_files.images_in(place):
                found.append(("train", place))
        elif (place / "images").is_dir():
            found.append((place.name, place / "images"))
        elif _shows_images(place):
            found.append((place.name, place))
    lists = [folder / f"{key}.txt" for key in split_files.USUAL_NAMES]
    listed = [(path.stem, path) for path in lists if path.is_file()]
    if listed:
        return listed
    return found or ([("train", folder)] if folder_files.images_in(folder) else [])


def _shows_images(folder: pathlib.Path) -> bool:
    return bool(folder_files.images_in(folder))


def has_labels(folder: pathlib.Path) -> bool:
    """Returns true if there are text files in folders `labels` or beside images."""
    for place in [folder, *folder_files.folders(folder)]:
        for labels in (place / name for name in _LABELS):
            inner = folder_files.folders(labels) if labels.is_dir() else []
            if any(folder_files.files_with(p, (".txt",)) for p in [labels, *inner]):
                return True
        images = folder_files.images_in(place)
        if any(image.with_suffix(".txt").is_file() for image in images):
            return True
    return False


def _names_file(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the file with one class name per line, of Darknet, CVAT or LabelImg."""
    named = _darknet_data(folder).get("names")
    if named and (folder / named).is_file():
        return folder / named
    places = [folder, folder / "labels", *folder_files.folders(folder)]
    places += [folder / "labels" / place.name for place in places[2:]]
    for place in places:
        for name in _NAME_FILES:
            if (place / name).is_file():
                return place / name
    return None


def _listed(folder: pathlib.Path, file: pathlib.Path) -> list[pathlib.Path]:
    """Returns the images of a list, which are relative to it or to the folder."""
    images = []
    for line in _text(file).splitlines():
        entry = line.strip()
        if entry:
            found = _resolve(folder, file.parent, entry)
            images.append(found or file.parent / entry)
    return images


def _text(file: pathlib.Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{file}: {paths.reason(error)}") from error
    except ValueError as error:
        raise InputError(f"{file} is not text in UTF-8: {error}") from error
