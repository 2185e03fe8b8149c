"""Annotations of one split: images, objects and categories, as read from any format."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from borrow_det.evaluation.coco_values import Id


class Category(NamedTuple):
    """A category of an annotation file."""

    id: Id  # As in the file; floats without fraction become integers.
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
      bbox_text: short text of the box in the file, for messages; "" if `bbox` has the
        same numbers.
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
      id: as in the file; floats without fraction become integers.
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
      root_id: id of the root category of Roboflow's exports, which is not a class; None
        without one.
    """

    path: pathlib.Path
    images: tuple[Image, ...]
    categories: tuple[Category, ...]
    root_id: Id | None = None
