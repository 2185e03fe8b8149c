"""Content of a prepared copy of a folder's split, collected while images are read."""

import collections
import contextlib
import hashlib
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tqdm

from borrow_det.data.images import upright
from borrow_det.errors import InputError
from borrow_det.evaluation import bad_boxes, coco_truth
from borrow_det.evaluation.annotations import Annotations, Image
from borrow_det.io.problems import Problem, Problems

_VERSION = 1  # Copies with another version are made anew.


class Source(NamedTuple):
    """A split of a folder, read from its annotation files and not yet prepared.

    Attributes:
      folder: folder of the dataset.
      split: name of the split in the folder.
      annotations: content of the annotation files.
      paths: file of each image; None if it is missing.
      annotation_problems: what is wrong with the annotations, except boxes.
      image_problems: images that are missing.
      max_pixels: dataset.max_pixels.
    """

    folder: pathlib.Path
    split: str
    annotations: Annotations
    paths: Sequence[pathlib.Path | None]
    annotation_problems: tuple[Problem, ...]
    image_problems: tuple[Problem, ...]
    max_pixels: int

    def fingerprint(self) -> str:
        """Returns a hash of everything that the copy depends on.

        These are the annotations, their problems, and the size and modification time
        of each image.
        """
        digest = hashlib.sha256()

        def add(*values: object) -> None:
            digest.update(repr(values).encode("utf-8", "surrogatepass"))

        add(_VERSION, self.max_pixels, self.annotations.categories)
        add(*self.annotation_problems, *self.image_problems)
        for image, path in zip(self.annotations.images, self.paths, strict=True):
            add(
                image.record,
                image.id,
                image.file_name,
                image.height,
                image.width,
                image.fields,
            )
            for o in image.objects:
                add(o.category, o.bbox, o.is_crowd, o.is_difficult, o.area)
                add(o.record, o.bbox_text)  # Quoted by the messages about boxes.
            if path is not None:
                add(str(path))
                with contextlib.suppress(OSError):  # Found again when it is read.
                    status = path.stat()
                    add(status.st_size, status.st_mtime_ns)
        return digest.hexdigest()[:16]


class Content:
    """Collects the content of a copy while its images are read."""

    def __init__(self, source: Source):
        self._source = source
        self._images: list[dict[str, Any]] = []
        self._repairs: collections.Counter[str] = collections.Counter()
        self._image_problems = Problems(source.image_problems)
        self._box_problems = Problems()
        self._parts: dict[str, list[np.ndarray]] = {
            "category": [np.empty(0, np.int32)],
            "bbox": [np.empty((0, 4))],
            "boxes": [np.empty((0, 4))],
            "faults": [np.empty(0, np.uint8)],
            "area": [np.empty(0)],
            "is_crowd": [np.empty(0, np.bool_)],
            "is_difficult": [np.empty(0, np.bool_)],
        }
        self._starts = [0]

    def encoded(self) -> Iterator[bytes]:
        """Reads the images and yields the good ones."""
        source = self._source
        pairs = zip(source.annotations.images, source.paths, strict=True)
        bar = tqdm.tqdm(
            pairs,
            total=len(source.paths),
            unit="image",
            leave=False,
            disable=not sys.stderr.isatty(),
        )
        for image, path in bar:
            stored = self._read(path)
            if stored is None:
                if image.height is not None and image.width is not None:
                    self._judge(image, (image.height, image.width))
            elif self._has_stated_size(image, stored):
                self._add(image, stored)
                yield stored.encoded

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns `Copy.arrays`."""
        arrays = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        return {"starts": np.array(self._starts, np.int64), **arrays}

    def to_json(self) -> dict[str, Any]:
        """Returns the content of copy.json."""
        return {
            "folder": str(self._source.folder),
            "split": self._source.split,
            "categories": self._source.annotations.categories,
            "repairs": self._repairs,
            "problems": {
                "annotations": self._source.annotation_problems,
                "images": list(self._image_problems),
                "boxes": list(self._box_problems),
            },
            "images": self._images,
        }

    def _read(self, path: pathlib.Path | None) -> upright.StoredImage | None:
        """Reads an image; None if it is missing or damaged."""
        if path is None:
            return None
        try:
            return upright.read(path, self._source.max_pixels)
        except InputError as error:
            reason = str(error).removeprefix(str(path)).lstrip(": ")
            too_large = isinstance(error, upright.TooManyPixelsError)
            kind = "image above the limit of pixels" if too_large else "damaged image"
            self._image_problems.add(kind, path, "", f"the file {reason}")
            return None

    def _has_stated_size(self, image: Image, stored: upright.StoredImage) -> bool:
        """Returns whether an image has the size in its annotation."""
        height, width = _stated_size(image, stored)
        if (height, width) in (
            (stored.height, stored.width),
            (stored.file_height, stored.file_width),
        ):
            return True
        self._image_problems.add(
            "image of another size",
            self._source.annotations.path,
            image.record,
            f"{image.file_name} is {stored.width} x {stored.height} pixels, but its "
            f"annotation has {width} x {height}: correct width and height there, or "
            "restore the image that was annotated",
        )
        return False

    def _judge(
        self, image: Image, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Adds the wrong boxes of an image to the problems; see `bad_boxes.judge`."""
        corners = coco_truth.corners(coco_truth.annotated_boxes(image.objects))
        clipped, faults = bad_boxes.judge(corners, np.array(size))
        for i in np.flatnonzero(faults != bad_boxes.GOOD):
            coco_truth.add_box_problem(
                self._box_problems,
                self._source.annotations.path,
                image,
                image.objects[i],
                int(faults[i]),
                size,
            )
        return clipped, faults

    def _add(self, image: Image, stored: upright.StoredImage) -> None:
        """Adds a good image with its objects."""
        objects = image.objects
        size = _stated_size(image, stored)
        clipped, faults = self._judge(image, size)
        bbox = coco_truth.annotated_boxes(objects)
        if size != (stored.height, stored.width):
            clipped = upright.rotate_boxes(clipped, stored)
            corners = upright.rotate_boxes(coco_truth.corners(bbox), stored)
            bbox = coco_truth.from_corners(corners)
        added = {
            "category": np.array([o.category for o in objects], np.int32),
            "bbox": bbox,
            "boxes": clipped,
            "faults": faults,
            "area": coco_truth.annotated_areas(objects),
            "is_crowd": np.array([o.is_crowd for o in objects], np.bool_),
            "is_difficult": np.array([o.is_difficult for o in objects], np.bool_),
        }
        for name, values in added.items():
            self._parts[name].append(values)
        self._starts.append(self._starts[-1] + len(objects))
        self._repairs.update(stored.repairs)
        self._images.append(
            {
                "id": image.id,
                "file_name": image.file_name,
                "height": stored.height,
                "width": stored.width,
                "fields": dict(image.fields),
            }
        )


def _stated_size(image: Image, stored: upright.StoredImage) -> tuple[int, int]:
    """Returns (height, width) in whose pixels the boxes are.

    Annotation tools give the size of the upright image or of the image as stored.
    Without such a size, it is that of the upright image.
    """
    return (
        stored.height if image.height is None else image.height,
        stored.width if image.width is None else image.width,
    )
