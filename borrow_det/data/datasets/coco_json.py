"""Reads and checks a folder's COCO annotation files, before any image is read."""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import re
import reprlib

import numpy as np

from borrow_det.data.datasets import bad_boxes
from borrow_det.errors import InputError
from borrow_det.io import json_files

# COCO's own annotations folder holds these beside instances_*.json; they say nothing
# of boxes, or say the same again.
_OTHER_TASKS = ("captions_", "person_keypoints_", "image_info_", "panoptic_", "stuff_")
_LARGEST_AREA = float(np.finfo(np.float32).max)  # Of those that a record can hold.


@dataclasses.dataclass(frozen=True)
class Image:
    """One image of an annotation file, with its annotations.

    Attributes:
      image_id: the file's.
      file_name: as the file writes it.
      path: where it lies.
      height: in pixels, as the annotation file says.
      width: likewise.
      boxes: float64 [n, 4], [y_min, x_min, y_max, x_max] in those pixels.
      labels: int32 [n], index into Folder.class_names.
      is_crowd: bool [n].
      is_difficult: bool [n], from `difficult` or `ignore`, where given.
      area: float64 [n], in pixels²; the annotation's, or the box's where it has none.
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
    """What the annotation files of a folder say.

    Attributes:
      path: of the folder, absolute.
      splits: the images of each split, by name.
      class_names: of all splits together, in the order of category_ids.
      category_ids: the files' own, ascending, gaps allowed.
      counts: boxes "clipped" and "dropped" by dataset.bad_boxes, by split.
      fingerprint: changes with the folder's place, the annotation files' content,
        the policy, and the size and modification time of any image.
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
      path: the folder, dataset.path.
      policy: dataset.bad_boxes.

    Raises:
      InputError: the folder, its annotation files or an image is missing, or an
        annotation file says something that cannot be.
    """
    if not path:
        raise InputError(
            "coco_folder needs the folder of your images and annotations: set "
            "dataset.path (--config=configs/coco_folder.py:path=DIR)"
        )
    bad_boxes.check_policy(policy)
    folder = pathlib.Path(path).expanduser().absolute()
    files = find_splits(folder)
    contents = {split: _AnnotationFile(file) for split, file in files.items()}
    categories = _merge_categories(contents.values())
    splits, counts = {}, {}
    for split, content in contents.items():
        label_of = {category_id: i for i, category_id in enumerate(sorted(categories))}
        splits[split], counts[split] = content.images(folder, split, label_of, policy)
    return Folder(
        path=folder,
        splits=splits,
        class_names=_class_names(categories),
        category_ids=tuple(sorted(categories)),
        counts=counts,
        fingerprint=_fingerprint(folder, policy, contents, splits),
    )


def find_splits(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Finds a folder's annotation files by the names that tools give them.

    `annotations/NAME.json` (COCO; `instances_` is taken off, and where such files
    exist the others are other tasks'), `NAME/_annotations.coco.json` (Roboflow), and
    only where there are none of these `NAME.json`.

    Returns:
      The path of each split's file, by split name, in which characters other than
      letters, digits and _ became _.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: correct dataset.path")
    found = [
        (file.stem, file)
        for file in sorted(folder.glob("annotations/*.json"))
        if not file.name.startswith(_OTHER_TASKS)
    ]
    instances = [pair for pair in found if pair[0].startswith("instances_")]
    found = [(name.removeprefix("instances_"), f) for name, f in instances or found]
    found += [
        (file.parent.name, file)
        for file in sorted(folder.glob("*/_annotations.coco.json"))
    ]
    found = found or [(file.stem, file) for file in sorted(folder.glob("*.json"))]
    if not found:
        raise InputError(
            f"{folder} holds no COCO annotation file: put one for each split NAME at "
            "annotations/NAME.json, NAME/_annotations.coco.json or NAME.json"
        )
    splits = {}
    for name, file in found:
        name = re.sub(r"\W", "_", name, flags=re.ASCII)
        if name in splits:
            raise InputError(
                f"{file} and {splits[name]} both name the split {name}: rename one"
            )
        if name == "all":
            raise InputError(f"{file}: TFDS keeps the split name 'all': rename it")
        splits[name] = file
    return splits


class _AnnotationFile:
    """One annotation file, checked as far as that takes no images."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        data = json_files.read(path)
        with path.open("rb") as file:
            self.digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not isinstance(data, dict):
            raise InputError(f"{path} is not in COCO's format: it holds no JSON object")
        self._images = self._records(data, "images", "id file_name width height")
        self._annotations = self._records(
            data, "annotations", "image_id category_id bbox"
        )
        self._categories = self._records(data, "categories", "id name")
        if not self._images:
            raise InputError(f"{path} lists no images: remove it, or add images")

    def _records(self, data: dict, key: str, required: str) -> list[dict]:
        """data[key], each record of which has the required keys."""
        if not isinstance(data.get(key), list):
            raise InputError(
                f"{self.path} lacks the list {key!r}: a COCO file of boxes has images, "
                "annotations and categories"
            )
        for i, record in enumerate(data[key]):
            if not isinstance(record, dict):
                raise InputError(f"{self.path}: {key}[{i}] is no JSON object")
            for name in required.split():
                if name not in record:
                    raise InputError(f"{self.path}: {key}[{i}] lacks the key {name!r}")
                if name == "bbox":
                    continue  # Checked with the image, which its error names.
                is_text = name in ("name", "file_name")
                if not (_is_text if is_text else _is_int64)(record[name]):
                    raise InputError(
                        f"{self.path}: {key}[{i}] has {name} = "
                        f"{reprlib.repr(record[name])}, which is no "
                        f"{'text' if is_text else 'whole number of 64 bits'}"
                    )
        return data[key]

    def categories(self) -> dict[int, str]:
        """Names by id."""
        names = {}
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
        """The images with their annotations, and what the policy did to the boxes."""
        annotations = self._by_image()
        known = self.categories()
        images, counts = [], {"clipped": 0, "dropped": 0}
        for record in self._images:
            if min(record["width"], record["height"]) <= 0:
                raise InputError(
                    f"{self.path}: image {record['file_name']!r} has the size "
                    f"{record['width']} x {record['height']}"
                )
            rows = annotations[record["id"]]
            for row in rows:
                if row["category_id"] not in known:
                    raise InputError(
                        f"{self.path}: annotation {row.get('id', '')} of "
                        f"{record['file_name']} has the category id "
                        f"{row['category_id']}, which 'categories' does not list"
                    )
            path = _find_image(folder, self.path, split, record["file_name"])
            image, counted = self._image(record, rows, path, label_of, policy)
            images.append(image)
            counts = {name: counts[name] + counted[name] for name in counts}
        return images, counts

    def _by_image(self) -> dict[int, list[dict]]:
        """The annotations of each image id."""
        annotations = {}
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
                    f"{annotation['image_id']}, which 'images' does not list"
                )
            annotations[annotation["image_id"]].append(annotation)
        return annotations

    def _image(self, record, rows, path, label_of, policy) -> tuple[Image, dict]:
        boxes = np.array([self._box(row) for row in rows]).reshape(-1, 4)

        def describe(i):
            return (
                f"{self.path}: the box {reprlib.repr(rows[i]['bbox'])} of annotation "
                f"{rows[i].get('id', i)} in {record['file_name']}"
            )

        boxes, keep, counts = bad_boxes.clean(
            boxes, record["height"], record["width"], policy, describe
        )
        area = [_area(row, box) for row, box in zip(rows, boxes.tolist(), strict=True)]
        difficult = [bool(row.get("difficult") or row.get("ignore")) for row in rows]
        image = Image(
            image_id=record["id"],
            file_name=record["file_name"],
            path=path,
            height=record["height"],
            width=record["width"],
            boxes=boxes[keep],
            labels=np.array([label_of[row["category_id"]] for row in rows], np.int32)[
                keep
            ],
            is_crowd=np.array([bool(row.get("iscrowd")) for row in rows], np.bool_)[
                keep
            ],
            is_difficult=np.array(difficult, np.bool_)[keep],
            area=np.array(area, np.float64)[keep],
        )
        return image, counts

    def _box(self, row: dict) -> tuple[float, float, float, float]:
        """COCO's [x, y, width, height] as [y_min, x_min, y_max, x_max]."""
        box = row["bbox"]
        if (
            not isinstance(box, list)
            or len(box) != 4
            or not all(type(value) in (int, float) for value in box)
        ):
            raise InputError(
                f"{self.path}: annotation {row.get('id', '')} of image id "
                f"{row['image_id']} has the bbox {reprlib.repr(box)}, which is no list "
                "of four numbers [x, y, width, height]"
            )
        x, y, width, height = map(_to_float, box)
        return y, x, y + height, x + width


def _is_text(value) -> bool:
    # JSON may hold halves of characters, which cannot be written to any file.
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _is_int64(value) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _to_float(number: int | float) -> float:
    """JSON's whole numbers have no bounds; those beyond a float's are infinite."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _area(row: dict, box: list[float]) -> float:
    area = row.get("area")
    if type(area) in (int, float) and 0 < area <= _LARGEST_AREA:
        return float(area)
    return (box[2] - box[0]) * (box[3] - box[1])


def _merge_categories(contents) -> dict[int, str]:
    """The categories of all files, which must agree on the name of an id."""
    merged, origin = {}, {}
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
    """Names in the order of ids; a repeated one (Roboflow's root) gets its id."""
    names = []
    for category_id, name in sorted(categories.items()):
        name = name or "unnamed"
        names.append(f"{name} ({category_id})" if name in names else name)
    return tuple(names)


def _find_image(
    folder: pathlib.Path, annotation_file: pathlib.Path, split: str, file_name: str
) -> pathlib.Path:
    """Where an image lies: beside its annotation file, or in the usual folders."""
    name = file_name.replace("\\", "/")
    places = [
        annotation_file.parent,
        folder,
        folder / "images",
        folder / "images" / split,
        folder / split,
        folder / split / "images",
    ]
    for place in places:
        # Unlike Path.is_file, false for names that no file can have.
        if os.path.isfile(place / name):
            return place / name
    raise InputError(
        f"{annotation_file} lists the image {file_name!r}, which is in none of "
        f"{', '.join(dict.fromkeys(map(str, places)))}"
    )


def _fingerprint(folder, policy, contents, splits) -> str:
    """A short hash of everything that the prepared set depends on."""
    digest = hashlib.sha256(json.dumps([str(folder), policy]).encode())
    for split, content in sorted(contents.items()):
        digest.update(f"{split} {content.digest}\n".encode())
        for image in splits[split]:
            status = image.path.stat()
            digest.update(
                f"{image.path} {status.st_size} {status.st_mtime_ns}\n".encode()
            )
    return digest.hexdigest()[:16]
