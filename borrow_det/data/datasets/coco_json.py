"""COCO annotation files of a folder, read and checked before any image is read."""

import dataclasses
import hashlib
import json
import math
import pathlib
import re
import reprlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from borrow_det.data.datasets import coco_layout
from borrow_det.errors import InputError
from borrow_det.evaluation import bad_boxes
from borrow_det.io import json_files

_LARGEST_AREA = float(np.finfo(np.float32).max)  # Records store areas as float32.


@dataclasses.dataclass(frozen=True)
class Image:
    """One image of an annotation file, with its annotations.

    Attributes:
      image_id: id in the annotation file.
      file_name: file name in the annotation file.
      path: path of the image.
      height: height in the annotation file, in pixels.
      width: width in the annotation file, in pixels.
      boxes: float64 [n, 4], [y_min, x_min, y_max, x_max] in these pixels.
      labels: int32 [n], index into Folder.class_names.
      is_crowd: bool [n].
      is_difficult: bool [n], from `difficult` or `ignore` if present.
      area: float64 [n], in square pixels, from `area` or else from the box.
    """

    image_id: int
    file_name: str
    path: pathlib.Path
    height: int
    width: int
    boxes: np.ndarray
    labels: np.ndarray
    is_crowd: np.ndarray
    is_difficult: np.ndarray
    area: np.ndarray


@dataclasses.dataclass(frozen=True)
class Folder:
    """Content of the annotation files of a folder.

    Attributes:
      path: absolute path of the folder.
      splits: split name to its images.
      class_names: names of the classes of all splits, in the order of category_ids.
      category_ids: ids in the files, ascending; gaps are allowed.
      counts: split name to the numbers of boxes that dataset.bad_boxes "clipped" and
        "dropped".
      fingerprint: hash of the path of the folder, the annotation files, the policy, and
        the size and modification time of each image.
    """

    path: pathlib.Path
    splits: dict[str, list[Image]]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    counts: dict[str, dict[str, int]]
    fingerprint: str


def read_folder(path: str, policy: str) -> Folder:
    """Reads and checks all annotation files of a folder.

    Args:
      path: path of the folder, dataset.path.
      policy: dataset.bad_boxes.

    Raises:
      InputError: the folder, its annotation files or an image is missing, or an
        annotation file is invalid.
    """
    if not path:
        raise InputError(
            "dataset.path is not set: set it to the folder of your images and "
            "annotations (--config=configs/coco_folder.py:path=DIR)"
        )
    bad_boxes.check_policy(policy)
    folder = pathlib.Path(path).expanduser().absolute()
    files = coco_layout.find_splits(folder)
    contents = {split: _AnnotationFile(file) for split, file in files.items()}
    categories = _merge_categories(contents.values())
    label_of = {category_id: i for i, category_id in enumerate(sorted(categories))}
    splits, counts = {}, {}
    for split, content in contents.items():
        splits[split], counts[split] = content.images(folder, split, label_of, policy)
    return Folder(
        path=folder,
        splits=splits,
        class_names=_class_names(categories),
        category_ids=tuple(sorted(categories)),
        counts=counts,
        fingerprint=_fingerprint(folder, policy, contents, splits),
    )


class _AnnotationFile:
    """One annotation file, checked as far as possible without images."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        data = json_files.read(path)
        with path.open("rb") as file:
            self.digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not isinstance(data, dict):
            raise InputError(f"{path} is not in COCO's format: it is not a JSON object")
        self._images = self._records(data, "images", "id file_name width height")
        self._annotations = self._records(
            data, "annotations", "image_id category_id bbox"
        )
        self._categories = self._records(data, "categories", "id name")
        if not self._images:
            raise InputError(f"{path} lists no images: remove it, or add images")

    def _records(
        self, data: dict[str, Any], key: str, required: str
    ) -> list[dict[str, Any]]:
        """Returns data[key], after checking that each record has the required keys."""
        if not isinstance(data.get(key), list):
            raise InputError(
                f"{self.path} has no list {key!r}: a COCO annotation file has images, "
                "annotations and categories"
            )
        for i, record in enumerate(data[key]):
            if not isinstance(record, dict):
                raise InputError(f"{self.path}: {key}[{i}] is not a JSON object")
            for name in required.split():
                if name not in record:
                    raise InputError(f"{self.path}: {key}[{i}] has no key {name!r}")
                if name == "bbox":
                    continue  # Checked later, when the message can name the image.
                is_text = name in ("name", "file_name")
                if not (_is_text if is_text else _is_int64)(record[name]):
                    raise InputError(
                        f"{self.path}: {key}[{i}] has {name} = "
                        f"{reprlib.repr(record[name])}, which is not "
                        f"{'a text' if is_text else 'an integer of 64 bits'}"
                    )
        return data[key]

    def categories(self) -> dict[int, str]:
        """Returns the names of the categories by id."""
        names: dict[int, str] = {}
        for category in self._categories:
            if category["id"] in names:
                raise InputError(
                    f"{self.path} lists category id {category['id']} twice: "
                    "make the ids unique"
                )
            names[category["id"]] = " ".join(category["name"].split())
        return names

    def images(
        self,
        folder: pathlib.Path,
        split: str,
        label_of: dict[int, int],
        policy: str,
    ) -> tuple[list[Image], dict[str, int]]:
        """Returns the images with their annotations, and counts of invalid boxes.

        Args:
          folder: folder of the dataset.
          split: name of the split.
          label_of: category id to class index.
          policy: dataset.bad_boxes.
        """
        annotations = self._by_image()
        known = self.categories()
        images, counts = [], {"clipped": 0, "dropped": 0}
        for record in self._images:
            if min(record["width"], record["height"]) <= 0:
                raise InputError(
                    f"{self.path}: image {record['file_name']!r} has the size "
                    f"{record['width']} x {record['height']}: correct width and height"
                )
            rows = annotations[record["id"]]
            for row in rows:
                if row["category_id"] not in known:
                    raise InputError(
                        f"{self.path}: annotation {row.get('id', '')} of "
                        f"{record['file_name']} has the category id "
                        f"{row['category_id']}, which is not in 'categories'"
                    )
            path = coco_layout.find_image(folder, self.path, split, record["file_name"])
            image, counted = self._image(record, rows, path, label_of, policy)
            images.append(image)
            counts = {name: counts[name] + counted[name] for name in counts}
        return images, counts

    def _by_image(self) -> dict[int, list[dict[str, Any]]]:
        """Returns the annotations of each image id."""
        annotations: dict[int, list[dict[str, Any]]] = {}
        for record in self._images:
            if record["id"] in annotations:
                raise InputError(
                    f"{self.path} lists image id {record['id']} twice, the second time "
                    f"as {record['file_name']!r}: make the ids unique"
                )
            annotations[record["id"]] = []
        for i, annotation in enumerate(self._annotations):
            if annotation["image_id"] not in annotations:
                raise InputError(
                    f"{self.path}: annotations[{i}] belongs to image id "
                    f"{annotation['image_id']}, which is not in 'images'"
                )
            annotations[annotation["image_id"]].append(annotation)
        return annotations

    def _image(
        self,
        record: dict[str, Any],
        rows: list[dict[str, Any]],
        path: pathlib.Path,
        label_of: dict[int, int],
        policy: str,
    ) -> tuple[Image, dict[str, int]]:
        """Returns an image with its annotations, and counts of invalid boxes."""
        boxes = np.array([self._box(row) for row in rows]).reshape(-1, 4)

        def describe(i: int) -> str:
            return (
                f"{self.path}: the box {reprlib.repr(rows[i]['bbox'])} of annotation "
                f"{rows[i].get('id', i)} in {record['file_name']}"
            )

        boxes, keep, counts = bad_boxes.clean(
            boxes, record["height"], record["width"], policy, describe
        )
        area = [_area(row, box) for row, box in zip(rows, boxes.tolist(), strict=True)]
        labels = [label_of[row["category_id"]] for row in rows]
        crowd = [bool(row.get("iscrowd")) for row in rows]
        difficult = [bool(row.get("difficult") or row.get("ignore")) for row in rows]
        image = Image(
            image_id=record["id"],
            file_name=record["file_name"],
            path=path,
            height=record["height"],
            width=record["width"],
            boxes=boxes[keep],
            labels=np.array(labels, np.int32)[keep],
            is_crowd=np.array(crowd, np.bool_)[keep],
            is_difficult=np.array(difficult, np.bool_)[keep],
            area=np.array(area, np.float64)[keep],
        )
        return image, counts

    def _box(self, row: dict[str, Any]) -> tuple[float, float, float, float]:
        """Converts [x, y, width, height] to (y_min, x_min, y_max, x_max)."""
        box = row["bbox"]
        if (
            not isinstance(box, list)
            or len(box) != 4
            or not all(type(value) in (int, float) for value in box)
        ):
            raise InputError(
                f"{self.path}: annotation {row.get('id', '')} of image id "
                f"{row['image_id']} has the bbox {reprlib.repr(box)}, which is not a "
                "list of four numbers [x, y, width, height]"
            )
        x, y, width, height = map(_to_float, box)
        return y, x, y + height, x + width


def _is_text(value: Any) -> bool:
    # JSON may have unpaired surrogates, which cannot be encoded in UTF-8.
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _is_int64(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _to_float(number: int | float) -> float:
    """Converts a number; integers beyond the range of a float become infinite."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _area(row: dict[str, Any], box: list[float]) -> float:
    area = row.get("area")
    if (
        isinstance(area, int | float)
        and not isinstance(area, bool)
        and 0 < area <= _LARGEST_AREA
    ):
        return float(area)
    return (box[2] - box[0]) * (box[3] - box[1])


def _merge_categories(contents: Iterable[_AnnotationFile]) -> dict[int, str]:
    """Merges the categories of all files; checks that they agree on the names."""
    merged: dict[int, str] = {}
    origin: dict[int, pathlib.Path] = {}
    for content in contents:
        for category_id, name in content.categories().items():
            if merged.setdefault(category_id, name) != name:
                raise InputError(
                    f"{content.path} calls category {category_id} {name!r}, and "
                    f"{origin[category_id]} calls it {merged[category_id]!r}: use the "
                    "same categories in both"
                )
            origin.setdefault(category_id, content.path)
    if not merged:
        raise InputError(f"{content.path} lists no categories: add them")
    return merged


def _class_names(categories: dict[int, str]) -> tuple[str, ...]:
    """Returns names in the order of ids; duplicates (Roboflow's root) get their id."""
    names: list[str] = []
    for category_id, name in sorted(categories.items()):
        name = name or "unnamed"
        names.append(f"{name} ({category_id})" if name in names else name)
    return tuple(names)


def _fingerprint(
    folder: pathlib.Path,
    policy: str,
    contents: dict[str, _AnnotationFile],
    splits: dict[str, list[Image]],
) -> str:
    """Returns a short hash of everything that the prepared set depends on."""
    digest = hashlib.sha256(json.dumps([str(folder), policy]).encode())
    for split, content in sorted(contents.items()):
        digest.update(f"{split} {content.digest}\n".encode())
        for image in splits[split]:
            status = image.path.stat()
            digest.update(
                f"{image.path} {status.st_size} {status.st_mtime_ns}\n".encode()
            )
    return digest.hexdigest()[:16]
