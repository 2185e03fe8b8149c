"""The reader of COCO's annotation files.

Training, evaluation, `score`, `--ids_from`, `inspect` and `convert` read these files
here, so that every field means the same to all of them. The readers of other formats
(data/datasets/) return the same `Annotations`. evaluation/coco_results.py reads results
files.

The meaning of the fields:
- Ids are integers, floats without fraction or texts. A reference such as `image_id`
  matches the record with an equal id; an integer and its text are equal.
- `iscrowd`, `difficult` and `ignore` are 0, 1, booleans, the texts of these, or absent.
  An object with `difficult` or `ignore` is difficult.
- `bbox` is [x, y, width, height] in pixels. Without four numbers there, the box is that
  around `segmentation`. evaluation/bad_boxes.py handles boxes that are invalid.
- `area` is in square pixels. If it is absent or not positive, the area of the box
  counts.
- `width` and `height` of an image may be absent, and so may `file_name`.
- Names of categories are unique: a repeated name gets its id. The root category of
  Roboflow's exports is not a class.
"""

import dataclasses
import os
import pathlib
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from borrow_det.errors import InputError
from borrow_det.evaluation import segmentation
from borrow_det.evaluation.annotations import Annotations, Category, Image, Object
from borrow_det.evaluation.coco_values import (
    Id,
    as_any_number,
    as_flag,
    as_id,
    as_number,
    as_size,
    id_key,
    id_order,
    is_text,
)
from borrow_det.io import json_files
from borrow_det.io.problems import Problems

# Fields of an image record that are not in Image.fields.
_IMAGE_FIELDS = ("id", "file_name", "width", "height")


def read_annotations(
    path: str | os.PathLike, problems: Problems, annotated: bool = True
) -> Annotations:
    """Reads a COCO annotation file; see `parse_annotations`.

    Raises:
      InputError: the file is missing, not readable or not in COCO's format.
    """
    return parse_annotations(json_files.read(path), str(path), problems, annotated)


def parse_annotations(
    data: Any, name: str, problems: Problems, annotated: bool = True
) -> Annotations:
    """Reads the content of a COCO annotation file.

    Records with wrong fields are left out and reported. The annotations of an image or
    category that is left out are left out without a report.

    Args:
      data: content of the file.
      name: name of the file, for messages.
      problems: receives the wrong records.
      annotated: false if the file may be without a list of annotations.

    Raises:
      InputError: the content is not a JSON object with lists of images, annotations
        and categories.
    """
    if not isinstance(data, Mapping):
        raise InputError(
            f"{name} is not in COCO's format: it must be a JSON object with images, "
            f"annotations and categories, not {reprlib.repr(data)}"
        )
    image_records = _list(data, "images", name)
    category_records = _list(data, "categories", name)
    has_annotations = annotated or "annotations" in data
    records = _list(data, "annotations", name) if has_annotations else []
    parser = _Parser(name, problems)
    known = parser.categories(category_records)
    root_id = _root_id(known, category_records, records)
    categories = _named_categories(
        [c for c in known.values() if c is not None and c.id != root_id]
    )
    labels = dict.fromkeys(known) | {
        id_key(category.id): label for label, category in enumerate(categories)
    }
    images = parser.images(image_records)
    objects = parser.objects(records, images, labels)
    return Annotations(
        path=pathlib.Path(name),
        images=tuple(
            dataclasses.replace(image, objects=tuple(objects[key]))
            for key, image in images.items()
            if image is not None
        ),
        categories=categories,
        root_id=root_id,
    )


def _list(data: Mapping[str, Any], key: str, name: str) -> list[Any]:
    if not isinstance(data.get(key), list):
        raise InputError(
            f"{name} is not in COCO's format: the key {key!r} is missing or not a list"
        )
    return data[key]


class _Parser:
    """Parses the records of one file.

    Tables map the key of an id (coco_values.id_key) to its record, or to None if that
    record is left out.
    """

    def __init__(self, name: str, problems: Problems):
        self._name = name
        self._problems = problems

    def categories(self, records: Sequence[Any]) -> dict[str, Category | None]:
        """Returns the categories with their names, which may be equal."""
        table: dict[str, Category | None] = {}
        for index, record in enumerate(records):
            place = f"categories[{index}]"
            category_id = self._own_id(record, place, table, "duplicate category id")
            if category_id is None:
                continue
            name = _category_name(record.get("name"))
            if name is None:
                self._add(
                    "wrong category name",
                    place,
                    f"the name {reprlib.repr(record.get('name'))} is missing or not a "
                    "text",
                )
            table[id_key(category_id)] = (
                None if name is None else Category(category_id, name)
            )
        return table

    def images(self, records: Sequence[Any]) -> dict[str, Image | None]:
        """Returns the images without their objects."""
        table: dict[str, Image | None] = {}
        for index, record in enumerate(records):
            place = f"images[{index}]"
            image_id = self._own_id(record, place, table, "duplicate image id")
            if image_id is not None:
                table[id_key(image_id)] = self._image(record, place, image_id)
        return table

    def objects(
        self,
        records: Sequence[Any],
        images: Mapping[str, Image | None],
        labels: Mapping[str, int | None],
    ) -> dict[str, list[Object]]:
        """Returns the objects of each image."""
        objects: dict[str, list[Object]] = {key: [] for key in images}
        for index, record in enumerate(records):
            place = f"annotations[{index}]"
            if not self._is_object(record, place):
                continue
            if "id" in record:
                place += f" (id {reprlib.repr(record['id'])})"
            image = self._reference(record, "image_id", images, place)
            category = self._reference(record, "category_id", labels, place)
            if image is None or category is None:
                continue
            label = labels[category]
            if images[image] is not None and label is not None:
                found = self._object(record, place, label)
                objects[image] += [found] if found else []
        return objects

    def _image(self, record: Mapping[str, Any], place: str, id_: Id) -> Image | None:
        file_name = record.get("file_name")
        if file_name is None:
            file_name = ""
        if not is_text(file_name):
            self._add(
                "wrong file name",
                place,
                f"file_name is {reprlib.repr(file_name)}, not a text in Unicode",
            )
            return None
        for key in ("height", "width"):
            value = record.get(key)
            if value is not None and as_size(value) is None:
                self._add(
                    "wrong image size",
                    place,
                    f"{key} of {file_name!r} is {reprlib.repr(value)}, not a positive "
                    "whole number",
                )
                return None
        fields = {k: v for k, v in record.items() if k not in _IMAGE_FIELDS}
        return Image(
            record=place,
            id=id_,
            file_name=file_name,
            height=as_size(record.get("height")),
            width=as_size(record.get("width")),
            fields=fields,
        )

    def _object(
        self, record: Mapping[str, Any], place: str, label: int
    ) -> Object | None:
        flags = {}
        for key in ("iscrowd", "difficult", "ignore"):
            try:
                flags[key] = as_flag(record.get(key))
            except ValueError:
                self._add(
                    "wrong flag",
                    place,
                    f"{key} is {reprlib.repr(record[key])}, not 0, 1, true or false",
                )
                return None
        box, box_text = _box(record)
        area = as_number(record.get("area"))
        return Object(
            record=place,
            category=label,
            bbox=box,
            bbox_text=box_text,
            is_crowd=flags["iscrowd"],
            is_difficult=flags["difficult"] or flags["ignore"],
            area=area if area is not None and area > 0 else None,
        )

    def _own_id(
        self, record: Any, place: str, table: Mapping[str, Any], duplicate: str
    ) -> Id | None:
        """Returns the id of a record, or None after reporting that it is wrong."""
        if not self._is_object(record, place):
            return None
        value = as_id(record.get("id"))
        if value is None:
            shown = reprlib.repr(record.get("id"))
            self._add(
                "wrong id",
                place,
                f"id {shown} is not an integer or a text"
                if "id" in record
                else "the key 'id' is missing",
            )
        elif id_key(value) in table:
            self._add(duplicate, place, f"id {reprlib.repr(value)} is not unique")
            return None
        return value

    def _reference(
        self, record: Mapping[str, Any], key: str, table: Mapping[str, Any], place: str
    ) -> str | None:
        """Returns a key of the table, or None after reporting an unknown id."""
        noun, records = _REFERENCES[key]
        value = as_id(record.get(key))
        if value is not None and id_key(value) in table:
            return id_key(value)
        self._add(
            f"unknown {noun}",
            place,
            f"{key} {reprlib.repr(record[key])} is not in {records!r}"
            if key in record
            else f"the key {key!r} is missing",
        )
        return None

    def _is_object(self, record: Any, place: str) -> bool:
        if isinstance(record, Mapping):
            return True
        self._add(
            "invalid record",
            place,
            f"must be a JSON object, not {reprlib.repr(record)}",
        )
        return False

    def _add(self, kind: str, place: str, reason: str) -> None:
        self._problems.add(kind, self._name, place, reason)


def _category_name(value: Any) -> str | None:
    """Returns a name with single spaces; "unnamed" without characters."""
    number = as_id(value)
    if number is None and isinstance(value, float):
        number = str(value)
    return None if number is None else " ".join(str(number).split()) or "unnamed"


def _root_id(
    categories: Mapping[str, Category | None],
    records: Sequence[Any],
    annotations: Sequence[Any],
) -> Id | None:
    """Returns the id of the category that Roboflow adds as the root of the others.

    Its name is the supercategory of every other category, and it has no annotation.
    """
    parents: dict[str, Any] = {}
    for record in records:
        category_id = as_id(record.get("id")) if isinstance(record, Mapping) else None
        if category_id is not None:
            parents.setdefault(id_key(category_id), record.get("supercategory"))
    roots = [c for k, c in categories.items() if c is not None and parents[k] == "none"]
    others = [_category_name(parent) for parent in parents.values() if parent != "none"]
    if len(roots) != 1 or not others or set(others) != {roots[0].name}:
        return None
    for annotation in annotations:
        if isinstance(annotation, Mapping):
            used = as_id(annotation.get("category_id"))
            if used is not None and id_key(used) == id_key(roots[0].id):
                return None
    return roots[0].id


def _named_categories(categories: Sequence[Category]) -> tuple[Category, ...]:
    """Sorts categories by id, and adds its id to each repeated name."""
    named: dict[str, Category] = {}
    for category_id, name in sorted(categories, key=lambda c: id_order(c.id)):
        unique = name
        while unique in named:
            unique += f" ({category_id})"
        named[unique] = Category(category_id, unique)
    return tuple(named.values())


def _box(
    record: Mapping[str, Any],
) -> tuple[tuple[float, float, float, float] | None, str]:
    """Returns the box of an annotation, and its text for messages."""
    value = record.get("bbox")
    if isinstance(value, list) and len(value) == 4:
        x, y, width, height = map(as_any_number, value)
        if x is not None and y is not None and width is not None and height is not None:
            return (x, y, width, height), ""
    around = segmentation.box_around(record.get("segmentation"))
    if around is None:
        return None, reprlib.repr(value)
    numbers = ", ".join(f"{number:.10g}" for number in around)
    return around, f"[{numbers}] around its segmentation"


# Field of an annotation: the noun and the list of the records it refers to.
_REFERENCES = {
    "image_id": ("image", "images"),
    "category_id": ("category", "categories"),
}
