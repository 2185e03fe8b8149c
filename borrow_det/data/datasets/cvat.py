"""CVAT's XML files: "CVAT for images 1.1" and "CVAT for video 1.1".

Rectangles, ellipses, polygons, polylines, masks and cuboids are objects with the box
around them, after their rotation. Points, skeletons and tags of images are not objects.
Attributes with the names difficult, ignore, iscrowd or is_crowd are flags of an object.
Frames of a video are read if there are images of them.
"""

import math
import pathlib
import reprlib
import xml.etree.ElementTree as ET
from collections.abc import Iterator

from borrow_det.data.datasets import (
    cvat_frames,
    folder_files,
    split_files,
    xml_files,
)
from borrow_det.data.datasets.named_classes import Collector, box_around
from borrow_det.data.datasets.split_files import SplitFiles
from borrow_det.errors import InputError
from borrow_det.evaluation.annotations import Annotations, Object
from borrow_det.evaluation.coco_values import as_flag, as_size
from borrow_det.io.problems import Problems

_Box = tuple[float, float, float, float]
_SHAPES = ("box", "ellipse", "polygon", "polyline", "mask", "cuboid")
_FLAGS = ("difficult", "ignore", "iscrowd", "is_crowd")
_MOST_FILES = 50  # Files of a folder that are opened: CVAT has one per split.
_ONLY = ("annotations", "default")  # Stems of files that do not name a split.


def evidence(folder: pathlib.Path) -> str:
    """Returns the name of an XML file of CVAT; "" if there is none."""
    for _, file in _files(folder):
        return folder_files.relative(folder, file)
    return ""


def splits(folder: pathlib.Path) -> dict[str, SplitFiles]:
    """Finds the splits of a folder.

    DIR/NAME/annotations.xml, DIR/annotations/NAME.xml and DIR/NAME.xml are the split
    NAME. In DIR/annotations.xml, images have subsets, or all are the split "train".

    Raises:
      InputError: an XML file cannot be read, or names of splits conflict.
    """
    found = []
    for name, file in _files(folder):
        subsets = _subsets(xml_files.read(file)) if not name else []
        found += [(subset, [file]) for subset in subsets or [name or "train"]]
    return split_files.by_name(folder, found)


def read(split: SplitFiles, problems: Problems) -> Annotations:
    """Reads a split.

    Problems are objects without a label and flags that are not 0, 1, true or false.

    Raises:
      InputError: the file cannot be read, has no images of the split, is of a video
        whose frames are not there as images, or has tracks of several tasks.
    """
    path = split.files[0]
    root = xml_files.read(path)
    reader = _Reader(split, path, root, problems)
    if root.find("track") is not None:
        reader.add_frames(root)
    subsets = _subsets(root)
    for number, image in enumerate(root.iter("image"), 1):
        if split.name not in subsets or _subset(image) == split.name:
            reader.add_image(image, number)
    return reader.annotations()


class _Reader:
    """Reads the images or frames of one file."""

    def __init__(
        self,
        split: SplitFiles,
        path: pathlib.Path,
        root: ET.Element,
        problems: Problems,
    ):
        self._split = split
        self._path = path
        self._problems = problems
        self._finder = folder_files.ImageFinder(split.folder, split.name)
        self._collector = Collector(split, _labels(root))

    def annotations(self) -> Annotations:
        return self._collector.annotations(self._path, self._problems)

    def add_image(self, image: ET.Element, number: int) -> None:
        """Adds an <image>."""
        name = (image.get("name") or "").strip()
        record = f"image {number} ({name})"
        objects: list[Object] = []
        for position, shape in enumerate(image, 1):
            if shape.tag in _SHAPES:
                place = f"{record}, {shape.tag} {position}"
                objects += self._objects(shape, shape.get("label"), place)
        found = self._finder.find(self._path, name)
        self._collector.add(
            record,
            found or name,
            (_size(image, "height"), _size(image, "width")),
            objects,
        )

    def add_frames(self, root: ET.Element) -> None:
        """Adds the frames of a video, with the boxes of its tracks."""
        if len({track.get("task_id") for track in root.iter("track")}) > 1:
            raise InputError(
                f"{self._path} has the tracks of several tasks, whose frames have the "
                "same numbers: export each task by itself"
            )
        files = cvat_frames.find(self._path, root, self._split)
        objects: dict[int, list[Object]] = {number: [] for number in files}
        for number, track in enumerate(root.iter("track"), 1):
            for shape in track:
                frame = xml_files.number(shape.get("frame"))
                if shape.tag not in _SHAPES or shape.get("outside") == "1":
                    continue
                record = f"track {number}, frame {shape.get('frame')}"
                if frame is None or frame not in objects:
                    self._problems.add(
                        "missing image",
                        self._path,
                        record,
                        f"there is no image of frame {shape.get('frame')}",
                    )
                    continue
                objects[int(frame)] += self._objects(shape, track.get("label"), record)
        size = root.find(".//original_size")
        sides = [
            None if size is None else as_size(xml_files.number(size.findtext(side)))
            for side in ("height", "width")
        ]
        video = root.findtext(".//source") or self._path.parent.name
        for frame, file in sorted(files.items()):
            self._collector.add(
                f"frame {frame}",
                folder_files.relative(self._split.folder, file),
                (sides[0], sides[1]),
                objects[frame],
                {"video": video, "frame": frame},
            )

    def _objects(
        self, shape: ET.Element, label: str | None, record: str
    ) -> Iterator[Object]:
        """Yields the object of a shape, unless it is wrong."""
        if not (label or "").strip():
            self._problems.add(
                "object without class", self._path, record, "it has no label"
            )
            return
        flags = {}
        for attribute in shape.iter("attribute"):
            name = (attribute.get("name") or "").lower()
            if name in _FLAGS:
                try:
                    flags[name] = as_flag((attribute.text or "").strip() or 0)
                except ValueError:
                    self._problems.add(
                        "wrong flag",
                        self._path,
                        record,
                        f"{name} is {reprlib.repr(attribute.text)}, not 0, 1, true or "
                        "false",
                    )
                    return
        yield Object(
            record=record,
            category=self._collector.label(label or ""),
            bbox=_box(shape),
            bbox_text=_shown(shape),
            is_crowd=flags.get("iscrowd", False) or flags.get("is_crowd", False),
            is_difficult=flags.get("difficult", False) or flags.get("ignore", False),
        )


def _box(shape: ET.Element) -> _Box | None:
    """Returns the box around a shape; None if its numbers are missing or damaged."""
    if shape.tag in ("box", "ellipse"):
        return _rotated_box(shape)
    if shape.tag == "mask":
        values = _numbers(shape, "left", "top", "width", "height")
        return None if values is None else (values[0], values[1], values[2], values[3])
    if shape.tag == "cuboid":
        corners = [f"{end}{face}" for end in ("tl", "bl", "tr", "br") for face in "12"]
        xs = _numbers(shape, *(f"x{corner}" for corner in corners))
        ys = _numbers(shape, *(f"y{corner}" for corner in corners))
        return None if xs is None or ys is None else box_around(xs, ys)
    points = [point.split(",") for point in (shape.get("points") or "").split(";")]
    if any(len(point) != 2 for point in points):
        return None
    parsed = [xml_files.number(text) for point in points for text in point]
    numbers = [number for number in parsed if number is not None]
    if len(numbers) < len(parsed):
        return None
    return box_around(numbers[::2], numbers[1::2])


def _rotated_box(shape: ET.Element) -> _Box | None:
    """Returns the box around a rectangle or an ellipse, rotated by degrees."""
    angle = math.radians(xml_files.number(shape.get("rotation")) or 0.0)
    if not math.isfinite(angle):
        return None
    cosine, sine = abs(math.cos(angle)), abs(math.sin(angle))
    if shape.tag == "ellipse":
        values = _numbers(shape, "cx", "cy", "rx", "ry")
        if values is None:
            return None
        x, y, rx, ry = values
        half_width = math.hypot(rx * cosine, ry * sine)
        half_height = math.hypot(rx * sine, ry * cosine)
    else:
        values = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
        if values is None:
            return None
        x0, y0, x1, y1 = values
        if not angle:
            return x0, y0, x1 - x0, y1 - y0
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        half_width = ((x1 - x0) * cosine + (y1 - y0) * sine) / 2
        half_height = ((x1 - x0) * sine + (y1 - y0) * cosine) / 2
    return x - half_width, y - half_height, 2 * half_width, 2 * half_height


def _numbers(shape: ET.Element, *names: str) -> list[float] | None:
    """Returns attributes as numbers; None if one is missing or no number."""
    values = [xml_files.number(shape.get(name)) for name in names]
    numbers = [value for value in values if value is not None]
    return numbers if len(numbers) == len(values) else None


def _shown(shape: ET.Element) -> str:
    """Returns the numbers of a shape as a short text, for messages."""
    left_out = (
        "label",
        "source",
        "occluded",
        "outside",
        "keyframe",
        "z_order",
        "frame",
    )
    values = [f"{k} {v}" for k, v in shape.items() if k not in left_out]
    return reprlib.repr(", ".join(values)).strip("'")


def _size(image: ET.Element, side: str) -> int | None:
    return as_size(xml_files.number(image.get(side)))


def _labels(root: ET.Element) -> list[str]:
    """Returns the labels that the file lists, except those of parts and tags."""
    names = []
    for label in root.iterfind("./meta//label"):
        kind = xml_files.text(label, "type")
        if label.find("parent") is None and kind not in ("points", "skeleton", "tag"):
            names.append(xml_files.text(label, "name"))
    return [name for name in names if name]


def _subsets(root: ET.Element) -> list[str]:
    """Returns the names of the subsets of a project's images, as names of splits."""
    images = list(root.iter("image"))
    has_subsets = any(image.get("subset") for image in images)
    return sorted({_subset(image) for image in images}) if has_subsets else []


def _subset(image: ET.Element) -> str:
    """Returns the name of an image's subset, `default` as in CVAT if it has none."""
    return split_files.split_name(image.get("subset") or "default")


def _files(folder: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
    """Returns (name of the split, file) of CVAT's files; "" if no name is given."""
    found = []
    for place in [folder, *folder_files.folders(folder)]:
        inside = place != folder and place.name.lower() != "annotations"
        for file in folder_files.files_with(place, (".xml",))[:_MOST_FILES]:
            if xml_files.root_tag(file) == "annotations":
                stem = "" if file.stem.lower() in _ONLY else file.stem
                found.append((place.name if inside else stem, file))
    return found
