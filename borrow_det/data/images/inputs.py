"""Images and videos that a user names: finding and reading them."""

import glob
import pathlib
from collections.abc import Sequence

import numpy as np

from borrow_det.data.images import upright
from borrow_det.errors import InputError
from borrow_det.io import paths

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
)
VIDEO_SUFFIXES = frozenset(
    (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
)


def is_video(path: pathlib.Path) -> bool:
    """Returns true if the suffix is that of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def find(inputs: Sequence[str], leave_out: pathlib.Path) -> list[pathlib.Path]:
    """Finds images and videos.

    Args:
      inputs: files with any suffix; folders, which are searched recursively for images
        and videos by their suffixes; or patterns with *, ?, [] and **.
      leave_out: folder whose files are skipped, for results of an earlier run.

    Returns:
      Paths without duplicates, in the order of `inputs`.

    Raises:
      InputError: an input does not exist, or contains no image or video.
    """
    found: dict[pathlib.Path, None] = {}
    for name in map(paths.expand_home, inputs):
        path = pathlib.Path(name)
        if path.exists():
            files = _below(path) if path.is_dir() else [path]
        else:
            matches = sorted(map(pathlib.Path, glob.glob(name, recursive=True)))
            if not matches:
                raise InputError(f"{name}: there is no such file or folder")
            files = [f for m in matches for f in (_below(m) if m.is_dir() else [m])]
        kept = [f for f in files if leave_out.resolve() not in f.resolve().parents]
        if not kept:
            raise InputError(f"{name}: there is no image or video in it")
        found |= dict.fromkeys(kept)
    return list(found)


def _below(folder: pathlib.Path) -> list[pathlib.Path]:
    """Finds images and videos in a folder and its subfolders, except hidden ones."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def read_upright(path: pathlib.Path) -> np.ndarray:
    """Reads an image with the conversion that training images get (`upright.read`).

    Returns:
      uint8 RGB [H, W, 3], rotated by its EXIF orientation.

    Raises:
      InputError: the file is missing, truncated or not an image, or its size exceeds
        the limit against decompression bombs.
    """
    return upright.read(path).pixels
