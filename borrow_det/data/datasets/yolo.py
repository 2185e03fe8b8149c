"""YOLO's label files: one line `class x_center y_center width height` per object.

The numbers are fractions of the image, which is read upright, as Ultralytics does. A
line with the corners of an oriented box or the points of a polygon is the box around
them.
"""

import os
import pathlib
import reprlib

from borrow_det.data.datasets import folder_files, yolo_layout
from borrow_det.data.datasets.named_classes import box_around
from borrow_det.data.datasets.split_files import SplitFiles
from borrow_det.errors import InputError
from borrow_det.evaluation.annotations import Annotations, Category, Image, Object
from borrow_det.io import paths
from borrow_det.io.problems import Problems

evidence = yolo_layout.evidence
splits = yolo_layout.splits
absent = yolo_layout.absent


def read(split: SplitFiles, problems: Problems) -> Annotations:
    """Reads a split.

    Images are sorted by their paths and numbered from 1. The id of a category is its
    index in label files plus 1. An image without a label file has no objects. Problems
    are images that are missing or damaged, label files that cannot be read, and lines
    that are damaged or have an unknown class.

    Raises:
      InputError: the names of the classes or a list of images cannot be read, or no
        image can be.
    """
    classes = yolo_layout.classes(split.folder)
    label_of = {index: label for label, index in enumerate(classes.names)}
    images = []
    for number, path in enumerate(yolo_layout.images(split), 1):
        try:
            size = folder_files.image_sizes(path).upright
        except InputError as error:
            kind = "damaged image" if os.path.exists(path) else "missing image"
            reason = str(error).removeprefix(str(path)).lstrip(": ")
            problems.add(kind, path, "", reason)
            continue
        labels = yolo_layout.label_file(split.folder, path)
        images.append(
            Image(
                record=folder_files.relative(split.folder, path),
                id=number,
                file_name=folder_files.relative(split.folder, path),
                height=size[0],
                width=size[1],
                objects=_objects(split, labels, size, classes, label_of, problems),
            )
        )
    if not images:
        raise InputError(
            f"{split.files[0]} has no images of the split {split.name} that can be "
            "read: add images, or remove it"
        )
    return Annotations(classes.file, tuple(images), _categories(classes))


def _categories(classes: yolo_layout.Classes) -> tuple[Category, ...]:
    """Returns the categories; a name that is used before gets its id."""
    categories: list[Category] = []
    for index, text in classes.names.items():
        name = " ".join(text.split()) or "unnamed"
        if any(name == category.name for category in categories):
            name = f"{name} ({index + 1})"
        categories.append(Category(index + 1, name))
    return tuple(categories)


def _objects(
    split: SplitFiles,
    file: pathlib.Path,
    size: tuple[int, int],
    classes: yolo_layout.Classes,
    label_of: dict[int, int],
    problems: Problems,
) -> tuple[Object, ...]:
    """Reads the objects of an image from its label file."""
    try:
        lines = file.read_bytes().decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        return ()
    except OSError as error:
        problems.add("damaged label file", file, "", paths.reason(error))
        return ()
    except ValueError:
        problems.add("damaged label file", file, "", "it is not text in UTF-8")
        return ()
    objects = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            index, bbox = _parse(line, size, classes.keypoints)
        except ValueError as error:
            problems.add("damaged line", file, f"line {number}", str(error))
            continue
        if index not in label_of:
            problems.add(
                "unknown class",
                file,
                f"line {number}",
                f"class {index} is not in {classes.file.name}, which has "
                f"{len(classes.names)} classes from 0",
            )
            continue
        record = f"{folder_files.relative(split.folder, file)}, line {number}"
        objects.append(Object(record, label_of[index], bbox, reprlib.repr(line)))
    return tuple(objects)


def _parse(
    line: str, size: tuple[int, int], keypoints: int
) -> tuple[int, tuple[float, float, float, float]]:
    """Returns the class and the (x, y, width, height) in pixels of one line.

    Args:
      line: a class and 4 numbers, possibly with a confidence or a track; or a class and
        at least 3 points.
      size: (height, width) of the image.
      keypoints: numbers that follow the box in a pose label.

    Raises:
      ValueError: the line is damaged; the message describes it.
    """
    try:
        values = [float(text) for text in line.split()]
    except ValueError:
        raise ValueError(f"{reprlib.repr(line)} has a text that is no number") from None
    if not values[0].is_integer() or values[0] < 0:
        raise ValueError(f"{reprlib.repr(line)} does not start with a class index")
    height, width = size
    numbers = values[1:]
    if len(numbers) in (4, 5) or (keypoints and len(numbers) == 4 + keypoints):
        x, y, w, h = numbers[:4]
        box = ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
        return int(values[0]), box
    around = box_around(
        [x * width for x in numbers[::2]], [y * height for y in numbers[1::2]]
    )
    if around is None or len(numbers) < 6:
        raise ValueError(
            f"{reprlib.repr(line)} has {len(numbers)} numbers after the class, not 4 "
            "of a box or pairs of a polygon"
        )
    return int(values[0]), around
