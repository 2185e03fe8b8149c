"""COCO's annotation and results files: the one reader of both.

Training, evaluation, `score`, `--ids_from`, `inspect` and `convert` read these files
here, so that every field means the same to all of them. The readers of other formats
(data/datasets/) return the same `Annotations`.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from borrow_det.errors import InputError

Id: TypeAlias = int | str


class Category(NamedTuple):
    """A category of an annotation file."""

    id: Id  # As in the file; whole floats become integers.
    name: str  # Unique in the file.


@dataclasses.dataclass(frozen=True)
class Object:
    """One annotation.

    Attributes:
      record: place in the file for messages, such as "annotations[3] (id 17)".
      category: index into Annotations.categories.
      bbox: (x, y, width, height) in pixels of the image that was annotated, as in the
        file: possibly outside the image, empty or not finite. None if the file has
        neither four numbers nor an outline of the object.
      bbox_text: short text of the box in the file, for messages.
      is_crowd: true for a region with many objects.
      is_difficult: true for an object that is marked `difficult` or `ignore`.
      area: square pixels from the file, positive and finite; None if absent there.
    """

    record: str
    category: int
    bbox: tuple[float, float, float, float] | None
    bbox_text: str = ""
    is_crowd: bool = False
    is_difficult: bool = False
    area: float | None = None


@dataclasses.dataclass(frozen=True)
class Image:
    """One image of an annotation file, with its objects.

    Attributes:
      record: place in the file for messages, such as "images[3]".
      id: as in the file; whole floats become integers.
      file_name: as in the file.
      height: in pixels; None if absent in the file.
      width: in pixels; None if absent in the file.
      objects: the annotations of the image, in the order of the file.
      fields: other fields of the record, such as the name of a video.
    """

    record: str
    id: Id
    file_name: str
    height: int | None
    width: int | None
    objects: tuple[Object, ...] = ()
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Annotations:
    """The images of one split and their objects, as read from any format.

    Attributes:
      path: file or folder that was read.
      images: in the order of the file.
      categories: in ascending order of their ids.
    """

    path: pathlib.Path
    images: tuple[Image, ...]
    categories: tuple[Category, ...]


def check_ground_truth(data: Any, name: str) -> None:
    """Checks that `data` is a valid COCO dictionary.

    Boxes may be empty, but not have a negative side. `area`, `iscrowd` and `difficult`
    may be absent.

    Args:
      data: content of the file.
      name: name of the file, for messages.

    Raises:
      InputError: names the file and the first invalid record.
    """
    if not isinstance(data, Mapping):
        raise InputError(f"{name}: the ground truth must be a JSON object, not a list")
    for key in ("images", "annotations", "categories"):
        if not isinstance(data.get(key), list):
            raise InputError(f"{name}: the key '{key}' is missing or not a list")
    images = _ids(data["images"], f"{name}: images")
    categories = _ids(data["categories"], f"{name}: categories")
    titles = set()
    for index, category in enumerate(data["categories"]):
        title = category.get("name")
        if not isinstance(title, str) or title in titles:
            raise InputError(
                f"{name}: categories[{index}]: the name {title!r} is missing or not "
                "unique"
            )
        titles.add(title)
    for index, annotation in enumerate(data["annotations"]):
        place = f"{name}: annotations[{index}]"
        _check_record(annotation, place, images, categories)
        for key in ("area", "iscrowd", "difficult"):
            value = annotation.get(key, 0)
            if not (isinstance(value, bool) or _is_number(value)) or value < 0:
                raise InputError(f"{place}: {key} is {value!r}, not a number >= 0")


def check_detections(data: Any, ground_truth: Mapping[str, Any], name: str) -> None:
    """Checks that `data` is a valid COCO results list for `ground_truth`.

    Scores may be any finite numbers.

    Args:
      data: content of the file.
      ground_truth: COCO dictionary that has been checked.
      name: name of the file, for messages.

    Raises:
      InputError: names the file and the first invalid record.
    """
    if not isinstance(data, Sequence) or isinstance(data, str):
        raise InputError(f"{name}: the detections must be a list of objects")
    images = {image["id"] for image in ground_truth["images"]}
    categories = {category["id"] for category in ground_truth["categories"]}
    for index, detection in enumerate(data):
        place = f"{name}: detections[{index}]"
        _check_record(detection, place, images, categories)
        if "score" not in detection:
            raise InputError(f"{place}: the key 'score' is missing")
        if not _is_number(detection["score"]):
            raise InputError(
                f"{place}: score is {detection['score']!r}, not a finite number"
            )


def _ids(records: Sequence[Any], place: str) -> set[int | str]:
    """Returns the ids of records; checks that they are unique and of one type."""
    ids = set()
    for index, record in enumerate(records):
        if not isinstance(record, Mapping) or "id" not in record:
            raise InputError(f"{place}[{index}]: the key 'id' is missing")
        value = record["id"]
        if type(value) is not int and not isinstance(value, str):
            raise InputError(
                f"{place}[{index}]: id {value!r} is not an integer or a string"
            )
        if value in ids:
            raise InputError(f"{place}[{index}]: id {value!r} is not unique")
        ids.add(value)
    if len({type(value) for value in ids}) > 1:
        raise InputError(f"{place}: some ids are integers, some are strings")
    return ids


def _check_record(
    record: Any, place: str, images: set[Any], categories: set[Any]
) -> None:
    """Checks the fields that annotations and detections have in common."""
    if not isinstance(record, Mapping):
        raise InputError(f"{place}: must be a JSON object")
    for key in ("image_id", "category_id", "bbox"):
        if key not in record:
            raise InputError(f"{place}: the key '{key}' is missing")
    for key, known in (("image_id", images), ("category_id", categories)):
        value = record[key]
        # The type is checked first: lists are not hashable, and True equals 1.
        if type(value) not in (int, str) or value not in known:
            raise InputError(f"{place}: {key} {value!r} is not in the ground truth")
    box = record["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise InputError(
            f"{place}: bbox {box!r} is not [x, y, width, height] in finite numbers"
        )
    if box[2] < 0 or box[3] < 0:
        raise InputError(f"{place}: bbox {box!r} has a negative width or height")


def _is_number(value: Any) -> bool:
    """Returns true for a finite number; false for an integer too large for a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
