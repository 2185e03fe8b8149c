"""A person's own pictures and videos: finding them, and reading them upright."""

import glob
import pathlib
from collections.abc import Sequence

import numpy as np

from borrow_det.data.images import decode, upright
from borrow_det.errors import InputError

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
)
VIDEO_SUFFIXES = frozenset(
    (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
)


def is_video(path: pathlib.Path) -> bool:
    """Whether a file is to be read as a video, by its suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def find(inputs: Sequence[str], leave_out: pathlib.Path) -> list[pathlib.Path]:
    """The files that a person names, each once, in the order of naming.

    Args:
      inputs: files of any name; folders, which are searched for images and videos
        by their suffixes, below them too; or patterns with *, ?, [] and **.
      leave_out: a folder whose files are passed over (what an earlier run drew).

    Raises:
      InputError: an input does not exist, or leads to no file.
    """
    found: dict[pathlib.Path, None] = {}
    for name in inputs:
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


def _below(folder):
    """Images and videos of a folder and the folders in it, hidden ones left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def read_upright(path: pathlib.Path) -> np.ndarray:
    """Reads an image as `stored_image.read` stores those that a run is trained on.

    Returns:
      uint8 RGB [H, W, 3], turned as its EXIF orientation says.

    Raises:
      InputError: the file is missing, truncated, no image, or so large that it may
        be a decompression bomb.
    """
    stored = upright.read(path)
    record = {"image": stored.encoded, "height": stored.height, "width": stored.width}
    return decode.decode_image(record, str(path))
