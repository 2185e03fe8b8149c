"""Prepared copies of a folder's splits: upright images and their annotations.

A copy is a folder DATA_DIR/folder/NAME_HASH/SPLIT/FINGERPRINT with three files:
  images.array_record: the good images in the order of the annotations, as
    `upright.read` stores them.
  annotations.npz: the arrays of `Copy.arrays`.
  copy.json: images, categories and problems; written last.

A copy holds no policy: dataset.bad_boxes and dataset.bad_images are applied when it is
opened. Runs that use a copy hold a shared lock on it, so that a copy of files that have
changed in the meantime is deleted only when nobody reads it.
"""

import collections
import fcntl
import functools
import hashlib
import json
import os
import pathlib
import re
import secrets
import shutil
import sys
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tqdm
from array_record.python import array_record_data_source, array_record_module

from borrow_det.data.datasets import prepare
from borrow_det.data.images import upright
from borrow_det.errors import InputError
from borrow_det.evaluation import bad_boxes, coco_truth
from borrow_det.evaluation.annotations import Annotations, Category, Image
from borrow_det.io.problems import Problem, Problems

_VERSION = 1  # Of the files; another one makes copies anew.
_IMAGES, _ARRAYS, _COPY, _LOCK = (
    "images.array_record",
    "annotations.npz",
    "copy.json",
    "lock",
)
_UNFINISHED = "unfinished_"
# Images have their size in a compressed form already.
_WRITER = "group_size:1,uncompressed"


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
            add(image.id, image.file_name, image.height, image.width, image.fields)
            for o in image.objects:
                add(o.category, o.bbox, o.is_crowd, o.is_difficult, o.area)
            if path is not None:
                status = path.stat()
                add(str(path), status.st_size, status.st_mtime_ns)
        return digest.hexdigest()[:16]


class Copy:
    """A prepared copy of one split, open for reading.

    It can be sent to loader workers, which rely on the lock of the sender.
    """

    def __init__(self, path: pathlib.Path, lock: "_Lock | None" = None):
        self.path = path
        self._lock = lock

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_lock": None}

    def __len__(self) -> int:
        return len(self.images)

    @functools.cached_property
    def _content(self) -> dict[str, Any]:
        return json.loads((self.path / _COPY).read_text())

    @property
    def images(self) -> list[dict[str, Any]]:
        """Images: `id`, `file_name`, `height` and `width` (upright), and `fields`."""
        return self._content["images"]

    @property
    def categories(self) -> list[Category]:
        """The categories of the annotation files of this split."""
        return [Category(*pair) for pair in self._content["categories"]]

    @property
    def repairs(self) -> dict[str, int]:
        """Numbers of images by the defect that was repaired."""
        return self._content["repairs"]

    def problems(self, of: str) -> tuple[Problem, ...]:
        """Returns the problems of "annotations", "images" or "boxes"."""
        return tuple(Problem(*values) for values in self._content["problems"][of])

    @functools.cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The annotations of all images, one after the other.

        starts: int64 [images + 1], index of the first object of each image.
        category: int32 [n], index into `categories`.
        bbox: float64 [n, 4], x, y, width and height in pixels of the upright image, as
          annotated; nan for an annotation without four numbers or an outline.
        boxes: float64 [n, 4], y_min, x_min, y_max and x_max in these pixels, clipped to
          the image.
        faults: uint8 [n], of `bad_boxes.judge`.
        area: float64 [n], square pixels as annotated; nan if absent.
        is_crowd, is_difficult: bool [n].
        """
        with np.load(self.path / _ARRAYS) as arrays:
            return dict(arrays)

    @functools.cached_property
    def _encoded(self) -> Sequence[bytes]:
        return array_record_data_source.ArrayRecordDataSource(str(self.path / _IMAGES))

    def encoded(self, index: int) -> bytes:
        """Returns the file of an image."""
        return self._encoded[index]


def root(data_dir: str) -> pathlib.Path:
    """Returns the folder of all copies of folders.

    Args:
      data_dir: dataset.data_dir; "" for TFDS's default.
    """
    return prepare.root(data_dir) / "folder"


def place(folder: pathlib.Path, data_dir: str) -> pathlib.Path:
    """Returns the folder of the copies of one folder's splits."""
    readable = re.sub(r"\W", "_", folder.name, flags=re.ASCII)
    path_hash = hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]
    return root(data_dir) / f"{readable}_{path_hash}"


def open_copy(source: Source, data_dir: str) -> Copy:
    """Opens the copy of a split, after preparing it if there is none.

    Copies of earlier states of the split are deleted, unless another run reads them, as
    is what killed preparations left.

    Raises:
      InputError: the copy cannot be written.
    """
    copies = place(source.folder, data_dir) / source.split
    path = copies / source.fingerprint()
    lock = _take_shared(path)
    # The check comes after the lock: another process may delete the copy before it.
    if not (path / _COPY).is_file():
        try:
            lock = _prepare(source, path, root(data_dir))
        except (OSError, RuntimeError) as error:
            if not prepare.is_system_error(error):
                raise
            raise prepare.cannot_prepare(path, error) from error
    _delete_others(copies, path, root(data_dir))
    return Copy(path, lock)


def _prepare(
    source: Source, path: pathlib.Path, folder: pathlib.Path
) -> "_Lock | None":
    """Prepares a copy in another folder and renames that; returns the lock."""
    images = source.annotations.images
    _print(
        f"preparing {source.split} of {source.folder}: {len(images):,} images, kept in "
        f"{path}"
    )
    start = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{_UNFINISHED}{os.getpid()}_{secrets.token_hex(4)}"
    unfinished.mkdir()
    try:
        lock = _take_exclusive(unfinished)
        _write(source, unfinished)
        size = sum(file.stat().st_size for file in unfinished.iterdir())
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            unfinished.rename(path)
        except OSError:
            # Another process may have prepared the same copy in the meantime.
            if not (path / _COPY).is_file():
                raise
            lock = _take_shared(path)
        else:
            if lock:
                lock.share()
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    seconds = time.monotonic() - start
    _print(f"prepared {source.split}: {size / 1e6:,.1f} MB in {seconds:.0f} s")
    return lock


def _write(source: Source, to: pathlib.Path) -> None:
    """Writes the three files of a copy."""
    content = _Content(source)
    writer = array_record_module.ArrayRecordWriter(str(to / _IMAGES), _WRITER)
    try:
        for encoded in content.encoded():
            writer.write(encoded)
    finally:
        writer.close()
    np.savez(to / _ARRAYS, **content.arrays())
    (to / _COPY).write_text(json.dumps(content.to_json(), default=str))


class _Content:
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
            stored = self._read(image, path)
            self._add_objects(image, stored)
            if stored is not None:
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

    def _read(
        self, image: Image, path: pathlib.Path | None
    ) -> upright.StoredImage | None:
        """Reads an image; None if it is missing, damaged or of another size."""
        if path is None:
            return None
        try:
            stored = upright.read(path, self._source.max_pixels)
        except InputError as error:
            reason = str(error).removeprefix(str(path)).lstrip(": ")
            self._image_problems.add("damaged image", path, "", f"the file {reason}")
            return None
        stated = _stated_size(image, stored)
        sizes = (
            (stored.height, stored.width),
            (stored.file_height, stored.file_width),
        )
        if stated not in sizes:
            self._image_problems.add(
                "image of another size",
                self._source.annotations.path,
                image.record,
                f"{image.file_name} is {stored.width} x {stored.height} pixels, but "
                f"its annotation has {stated[1]} x {stated[0]}: correct width and "
                "height there, or restore the image that was annotated",
            )
            return None
        self._repairs.update(stored.repairs)
        return stored

    def _add_objects(self, image: Image, stored: upright.StoredImage | None) -> None:
        """Adds an image with its objects; of a bad one only the wrong boxes."""
        objects = image.objects
        bbox = coco_truth.annotated_boxes(objects)
        corners = coco_truth.corners(bbox)
        if stored is not None:
            stated = _stated_size(image, stored)
        elif image.height is None or image.width is None:
            return
        else:
            stated = image.height, image.width
        clipped, faults = bad_boxes.judge(corners, np.array(stated))
        for i in np.flatnonzero(faults != bad_boxes.GOOD):
            coco_truth.add_box_problem(
                self._box_problems,
                self._source.annotations.path,
                image,
                objects[i],
                int(faults[i]),
                stated,
            )
        if stored is None:
            return
        if stated != (stored.height, stored.width):
            clipped = upright.rotate_boxes(clipped, stored)
            y0, x0, y1, x1 = upright.rotate_boxes(corners, stored).T
            bbox = np.stack([x0, y0, x1 - x0, y1 - y0], axis=-1)
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

    Annotation tools give the size of the upright image or of the image as stored. Where
    there is none, it is that of the upright image.
    """
    return (
        stored.height if image.height is None else image.height,
        stored.width if image.width is None else image.width,
    )


class _Lock:
    """A lock of this process on a copy, until it is garbage-collected."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)

    @classmethod
    def take(cls, path: pathlib.Path, kind: int) -> "_Lock":
        """Takes a lock of a kind of `fcntl` on a folder.

        Raises:
          OSError: the folder does not exist, another process holds the lock, or the
            file system has no locks.
        """
        file = path / _LOCK
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:  # Another user's copy, to be read only.
            descriptor = os.open(file, os.O_RDONLY)
        lock = cls(descriptor)
        fcntl.flock(descriptor, kind)
        return lock

    def share(self) -> None:
        """Makes an exclusive lock a shared one."""
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)


def _take_exclusive(path: pathlib.Path) -> _Lock | None:
    """Takes the lock of a copy that is being prepared; None without locks."""
    try:
        return _Lock.take(path, fcntl.LOCK_EX)
    except OSError:
        return None


def _take_shared(path: pathlib.Path) -> _Lock | None:
    """Takes a shared lock on a copy; None if it cannot be locked.

    A copy that cannot be locked is not deleted by others, either.
    """
    try:
        return _Lock.take(path, fcntl.LOCK_SH)
    except OSError:
        return None


def _delete_others(
    copies: pathlib.Path, path: pathlib.Path, folder: pathlib.Path
) -> None:
    """Deletes other copies of a split and remains that no process holds."""
    for other in [*copies.glob("*"), *folder.glob(f"{_UNFINISHED}*")]:
        if other == path or not other.is_dir():
            continue
        try:
            lock = _Lock.take(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        (other / _COPY).unlink(missing_ok=True)
        shutil.rmtree(other, ignore_errors=True)
        del lock


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
