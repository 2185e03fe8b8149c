"""Prepared copies of a folder's splits: upright images and their annotations.

A copy is a folder DATA_DIR/folder/NAME_HASH/SPLIT/FINGERPRINT with three files:
  images.array_record: the good images in the order of the annotations, as
    `upright.read` stores them.
  annotations.npz: the arrays of `Copy.arrays`.
  copy.json: images, categories, problems, and the sizes of the other files; written
    last.

A copy holds no policy: dataset.bad_boxes and dataset.bad_images are applied when it is
opened. Runs that use a copy hold a shared lock on it, so that a copy of files that have
changed in the meantime is deleted only when no run reads it.
"""

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
from collections.abc import Sequence
from typing import Any

import numpy as np
from array_record.python import array_record_data_source, array_record_module

from borrow_det.data.datasets import prepare
from borrow_det.data.datasets.folder_content import Content, Source
from borrow_det.evaluation.annotations import Category
from borrow_det.io.problems import Problem

_IMAGES, _ARRAYS, _COPY, _LOCK = (
    "images.array_record",
    "annotations.npz",
    "copy.json",
    "lock",
)
_UNFINISHED = "unfinished_"
# Images have their size in a compressed form already.
_WRITER = "group_size:1,uncompressed"


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

    def is_whole(self) -> bool:
        """Returns whether the copy exists with all of its bytes.

        A power failure can leave its files empty.
        """
        try:
            return self._content["sizes"] == _sizes(self.path)
        except (OSError, ValueError, KeyError):
            return False

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

    Copies of earlier states of the split are deleted, unless another run reads them. So
    are the remains of killed preparations.

    Raises:
      InputError: the copy cannot be written.
    """
    copies = place(source.folder, data_dir) / source.split
    path = copies / source.fingerprint()
    copy = Copy(path, _take_shared(path))
    # The check comes after the lock: another process may delete the copy before it.
    if not copy.is_whole():
        try:
            copy = Copy(path, _prepare(source, path, root(data_dir)))
        except (OSError, RuntimeError) as error:
            if not prepare.is_system_error(error):
                raise
            raise prepare.cannot_prepare(path, error) from error
    _delete_others(copies, path, root(data_dir))
    return copy


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
    unfinished, lock = _new_folder(folder)
    try:
        _write(source, unfinished)
        size = sum(file.stat().st_size for file in unfinished.iterdir())
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and not Copy(path).is_whole():
            # Remains of a deletion that was killed, or a damaged copy.
            shutil.rmtree(path, ignore_errors=True)
        try:
            unfinished.rename(path)
        except OSError:
            # Another process may have prepared the same copy in the meantime.
            if not Copy(path).is_whole():
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


def _new_folder(folder: pathlib.Path) -> tuple[pathlib.Path, "_Lock | None"]:
    """Makes a folder for a copy; returns it and its lock."""
    name = f"{os.getpid()}_{secrets.token_hex(4)}"
    # Other processes delete unfinished copies without a lock: it gets that name last.
    new = folder / f"new_{name}"
    new.mkdir()
    lock = _take_exclusive(new)
    unfinished = folder / f"{_UNFINISHED}{name}"
    new.rename(unfinished)
    return unfinished, lock


def _write(source: Source, to: pathlib.Path) -> None:
    """Writes the three files of a copy."""
    content = Content(source)
    writer = array_record_module.ArrayRecordWriter(str(to / _IMAGES), _WRITER)
    try:
        for encoded in content.encoded():
            writer.write(encoded)
    finally:
        writer.close()
    np.savez(to / _ARRAYS, allow_pickle=False, **content.arrays())
    values = content.to_json() | {"sizes": _sizes(to)}
    (to / _COPY).write_text(json.dumps(values, default=str))


def _sizes(copy: pathlib.Path) -> dict[str, int]:
    """Returns the bytes of the images and the annotations of a copy."""
    return {name: (copy / name).stat().st_size for name in (_IMAGES, _ARRAYS)}


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
            (other / _COPY).unlink(missing_ok=True)
        except OSError:  # The copy is in use, or another user's.
            continue
        shutil.rmtree(other, ignore_errors=True)
        del lock


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
