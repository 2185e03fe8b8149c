"""LabelMe's JSON files: one file per image, with a list of shapes.

Rectangles, polygons, circles, ellipses and masks are objects with the box around them;
shapes of one label with the same `group_id` are one object. Points and lines are not
objects. The image is a file: `imageData`, a copy of it in the JSON file, is not read.
"""

import math
import pathlib
import re
import reprlib
from collections.abc import Mapping
from typing import Any

from borrow_det.data.datasets import folder_files, split_files
from borrow_det.data.datasets.named_classes import Collector, box_around
from borrow_det.data.datasets.split_files import SplitFiles
from borrow_det.errors import InputError
from borrow_det.evaluation.annotations import Annotations, Object
from borrow_det.evaluation.coco_values import as_any_number, as_flag, as_size, is_text
from borrow_det.io import json_files
from borrow_det.io.problems import Problems

_Box = tuple[float, float, float, float]
_NO_OBJECTS = ("point", "points", "line", "linestrip")
_HEAD = 2**16  # Bytes that show the format.
_OURS = re.compile(rb'"(shapes|imageData|imagePath)"\s*:')
_COCO = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')


def evidence(folder: pathlib.Path) -> str:
    """Returns the name of a folder with LabelMe's JSON files; "" if there is none."""
    for _, place in folder_files.annotation_folders(folder, ".json", is_labelme):
        return folder_files.relative(folder, place / "*.json")
    return ""


def splits(folder: pathlib.Path) -> dict[str, SplitFiles]:
    """Finds the splits of a folder, each with the JSON files of one folder.

    Those of DIR, DIR/annotations or DIR/images are "train" or divided by the folders
    of their images, DIR/images/NAME or DIR/NAME. Those of DIR/NAME,
    DIR/annotations/NAME or DIR/NAME/annotations are NAME.

    Raises:
      InputError: names of splits conflict.
    """
    folders = folder_files.annotation_folders(folder, ".json", is_labelme)
    found = folder_files.divided_by_images(folder, folders, ".json")
    return split_files.by_name(folder, found)


def is_labelme(path: pathlib.Path) -> bool:
    """Returns true if the first bytes of a JSON file are like those of LabelMe."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    return bool(_OURS.search(head)) and not _COCO.search(head)


def read(split: SplitFiles, problems: Problems) -> Annotations:
    """Reads a split.

    Images without a JSON file are not part of it, and neither are JSON files of other
    formats. Problems are damaged files, shapes without a label, and flags that are not
    0, 1, true or false.

    Raises:
      InputError: no file can be read.
    """
    place = split.files[0]
    finder = folder_files.ImageFinder(split.folder, split.name)
    collector = Collector(split)
    for file in split.files[1:] or folder_files.files_with(place, (".json",)):
        try:
            data = json_files.read(file)
        except InputError as error:
            reason = str(error).removeprefix(f"{file}: ")
            problems.add("damaged annotation file", file, "", reason)
            continue
        if not isinstance(data, Mapping) or not isinstance(data.get("shapes"), list):
            if is_labelme(file):
                problems.add(
                    "damaged annotation file", file, "", "it has no list of shapes"
                )
            continue
        record = folder_files.relative(split.folder, file)
        objects = _Shapes(file, record, collector, problems).read(data["shapes"])
        name = str(data["imagePath"]) if is_text(data.get("imagePath")) else ""
        found = finder.find(file, name)
        size = as_size(data.get("imageHeight")), as_size(data.get("imageWidth"))
        collector.add(record, found or name or file.stem, size, objects)
    return collector.annotations(place, problems)


class _Shapes:
    """Reads the shapes of one file."""

    def __init__(
        self,
        file: pathlib.Path,
        record: str,
        collector: Collector,
        problems: Problems,
    ):
        self._file = file
        self._record = record
        self._collector = collector
        self._problems = problems

    def read(self, shapes: list[Any]) -> list[Object]:
        """Returns the objects, those of one group in the place of its first shape."""
        found: dict[object, Object] = {}
        for index, shape in enumerate(shapes):
            item = self._object(shape, f"shapes[{index}]")
            if item is None:
                continue
            group = shape.get("group_id")
            key: object = index
            if type(group) in (int, str) and item.bbox is not None:
                key = (item.category, str(group))
            other = found.get(key)
            if other is not None and other.bbox is not None and item.bbox is not None:
                item = _joined(other, other.bbox, item.bbox)
            found[key] = item
        return list(found.values())

    def _object(self, shape: Any, place: str) -> Object | None:
        if not isinstance(shape, Mapping):
            self._add("invalid record", place, "must be a JSON object")
            return None
        kind = shape.get("shape_type") or "polygon"
        if kind in _NO_OBJECTS:
            return None
        label = shape.get("label")
        label = str(label).strip() if type(label) is int or is_text(label) else ""
        if not label:
            reason = f"the label is {reprlib.repr(shape.get('label'))}, not a text"
            self._add("object without class", place, reason)
            return None
        nested = shape.get("flags")
        flags = {**(nested if isinstance(nested, Mapping) else {}), **shape}
        difficult = False
        for name in ("difficult", "ignore"):
            try:
                difficult |= as_flag(flags.get(name))
            except ValueError:
                shown = reprlib.repr(flags[name])
                reason = f"{name} is {shown}, not 0, 1, true or false"
                self._add("wrong flag", place, reason)
                return None
        points = shape.get("points")
        return Object(
            record=f"{self._record}, {place}",
            category=self._collector.label(label),
            bbox=_box(kind, points),
            bbox_text=f"{kind} {reprlib.repr(points)}",
            is_difficult=difficult,
        )

    def _add(self, kind: str, place: str, reason: str) -> None:
        self._problems.add(kind, self._file, place, reason)


def _box(kind: object, points: Any) -> _Box | None:
    """Returns the box around the points of a shape; None if they are damaged."""
    if not isinstance(points, list) or len(points) < 2:
        return None
    numbers = []
    for point in points:
        values = [as_any_number(v) for v in point] if isinstance(point, list) else []
        x, y = values if len(values) == 2 else (None, None)
        if x is None or y is None:
            return None
        numbers.append((x, y))
    if kind == "circle":  # The center and a point on the circle.
        (x, y), (rim_x, rim_y) = numbers[:2]
        radius = math.hypot(rim_x - x, rim_y - y)
        return x - radius, y - radius, 2 * radius, 2 * radius
    return box_around([x for x, _ in numbers], [y for _, y in numbers])


def _joined(first: Object, box: _Box, other: _Box) -> Object:
    """Returns an object with the box around two boxes."""
    x0, y0 = min(box[0], other[0]), min(box[1], other[1])
    x1 = max(box[0] + box[2], other[0] + other[2])
    y1 = max(box[1] + box[3], other[1] + other[3])
    return Object(
        record=first.record,
        category=first.category,
        bbox=(x0, y0, x1 - x0, y1 - y0),
        bbox_text=first.bbox_text,
        is_difficult=first.is_difficult,
    )
