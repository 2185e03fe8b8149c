"""Images and videos that a user names: finding and reading them."""

import collections
import glob
import os
import pathlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from borrow_det.data.images import strips, upright
from borrow_det.errors import InputError
from borrow_det.io import paths

Kind: TypeAlias = Literal["image", "video"]

IMAGE_SUFFIXES = frozenset(
    (
        *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
        *(".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    )
)
VIDEO_SUFFIXES = frozenset(
    (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
)

# First bytes of the formats above, for names with another suffix or none.
_IMAGE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|II[*+]\0|MM\0[*+]|RIFF....WEBP"
    # The reserved bytes of a bitmap: "BM" alone begins texts, too.
    rb"|BM....\0\0\0\0"
    rb"|P[1-6]\s+(#|\d)",
    re.DOTALL,
)
_VIDEO = re.compile(
    rb"....ftyp(?!avif|avis|heic|heix|mif1|msf1|M4A)"
    rb"|RIFF....AVI |\x1a\x45\xdf\xa3|\0\0\x01[\xb3\xba]",
    re.DOTALL,
)
_HEADER = 16  # Bytes that the patterns need.


class Found(NamedTuple):
    """Files that were found.

    Attributes:
      paths: images and videos without duplicates.
      others: number of files of each other kind in the folders: the suffix, "no
        suffix", "hidden", "broken link", or "unreadable folder". A hidden folder counts
        as one.
    """

    paths: list[pathlib.Path]
    others: Mapping[str, int]


def described(others: Mapping[str, int]) -> str:
    """Returns `Found.others` in words, most first, such as "3 .txt, 1 hidden"."""
    counts = sorted(others.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{count} {kind}" for kind, count in counts)


def kind_of(path: pathlib.Path) -> Kind | None:
    """Returns the kind of a file, by its suffix, or by its content if that is unknown.

    A file that is neither an image nor a video, or cannot be read, has none.
    """
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return "image"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    try:
        if not path.is_file():  # Opening a pipe would wait for its other end.
            return None
        with path.open("rb") as file:
            header = file.read(_HEADER)
    except OSError:
        return None
    return kind_of_content(header)


def kind_of_content(start: bytes) -> Kind | None:
    """Returns the kind of a file with these first bytes, 16 at least."""
    if _IMAGE.match(start):
        return "image"
    return "video" if _VIDEO.match(start) else None


def is_video(path: pathlib.Path) -> bool:
    """Returns true for a video, by its suffix, or by its content if that is unknown."""
    return kind_of(path) == "video"


def find(inputs: Sequence[str], leave_out: pathlib.Path | None = None) -> Found:
    """Finds images and videos.

    Args:
      inputs: files of any kind; folders, which are searched recursively for images and
        videos (`kind_of`), also through links to folders, each folder once; or
        patterns with *, ?, [] and **.
      leave_out: folder whose files are skipped, for results of an earlier run; None
        for none.

    Returns:
      Paths in the order of `inputs`, and the number of other files in the folders.

    Raises:
      InputError: an input does not exist, or contains no image or video.
    """
    found: dict[pathlib.Path, None] = {}
    others: collections.Counter[str] = collections.Counter()
    skipped = None if leave_out is None else leave_out.resolve()
    for name in inputs:
        if not name:  # It would be the current folder.
            raise InputError("the name of an input is empty: name a file or folder")
        name = paths.expand_home(name)
        path = pathlib.Path(name)
        matches = [path] if os.path.exists(path) else _matches(name)
        kept = []
        counted: collections.Counter[str] = collections.Counter()
        for match in matches:
            if match.is_dir():
                kept += _below(match, skipped, counted)
            elif skipped not in match.resolve().parents:
                kept.append(match)
        if not kept:
            raise InputError(f"{name}: there is no image or video in it")
        found |= dict.fromkeys(kept)
        others += counted
    return Found(list(found), others)


def matching(pattern: str) -> list[pathlib.Path]:
    """Returns the files and folders that a pattern with *, ?, [] and ** matches.

    If there are none, the pattern may begin with a folder whose name has such
    characters. Its longest beginning that is a folder is then taken literally.

    Returns:
      Sorted paths.
    """
    names = glob.glob(pattern, recursive=True)
    if not names:
        path = pathlib.Path(pattern)
        folder = next(filter(os.path.isdir, path.parents), path.parent)
        rest = os.fspath(path.relative_to(folder))
        literal = glob.escape(os.fspath(folder))
        names = glob.glob(os.path.join(literal, rest), recursive=True)
    return sorted(map(pathlib.Path, names))


def _matches(pattern: str) -> list[pathlib.Path]:
    matches = matching(pattern)
    if not matches:
        raise InputError(f"{pattern}: there is no such file or folder")
    return matches


def _below(
    folder: pathlib.Path,
    leave_out: pathlib.Path | None,
    others: collections.Counter[str],
) -> list[pathlib.Path]:
    """Finds images and videos in a folder and below it, and counts other files."""
    found = []
    for path in files_once(folder, leave_out, others):
        if path.name.startswith("."):
            others["hidden"] += 1
        elif not os.path.exists(path):
            others["broken link"] += 1
        elif os.path.isfile(path) and kind_of(path) is not None:
            found.append(path)
        else:
            others[path.suffix.lower() or "no suffix"] += 1
    return sorted(found)


def files_once(
    folder: pathlib.Path,
    leave_out: pathlib.Path | None,
    others: collections.Counter[str],
) -> Iterator[pathlib.Path]:
    """Yields the files of a folder and of all folders in it and linked from it.

    A folder that is reached in several ways is entered once. Folders inside
    `folder` come before links, so that their files keep their own names.

    Args:
      folder: where to begin.
      leave_out: resolved folder that is not entered; None for none.
      others: gets the number of folders that are "hidden" or an "unreadable folder".
    """
    entered: set[tuple[int, int]] = set()
    waiting = collections.deque([folder])

    def refused(error: OSError) -> None:
        del error
        others["unreadable folder"] += 1

    while waiting:
        for place, inner, names in os.walk(waiting.popleft(), onerror=refused):
            own = pathlib.Path(place)
            real = own.resolve()
            try:
                status = real.stat()
            except OSError as error:
                refused(error)
                continue
            key = (status.st_dev, status.st_ino)
            if key in entered or leave_out in (real, *real.parents):
                inner.clear()
                continue
            entered.add(key)
            others["hidden"] += sum(name.startswith(".") for name in inner)
            visible = [own / name for name in sorted(inner) if name[0] != "."]
            inner[:] = [path.name for path in visible if not path.is_symlink()]
            # A link to a folder around it leads to files beside the one that was named.
            waiting += [
                path
                for path in visible
                if path.is_symlink() and path.resolve() not in (real, *real.parents)
            ]
            yield from (own / name for name in sorted(names))


def open_image(
    path: pathlib.Path,
    max_pixels: int = 0,
    option: str = "max_pixels",
    warn: Callable[[str], object] = warnings.warn,
) -> np.ndarray | strips.StripImage:
    """Opens an image by strips if it is large and its format allows it, or reads it.

    The arguments and the errors are those of `read_upright`.
    """
    opened = strips.open_strips(path, max_pixels, option)
    if opened is not None:
        return opened
    return read_upright(path, max_pixels, option, warn)


def read_upright(
    path: pathlib.Path,
    max_pixels: int = 0,
    option: str = "max_pixels",
    warn: Callable[[str], object] = warnings.warn,
) -> np.ndarray:
    """Reads an image with the conversion that training images get (`upright.read`).

    Args:
      path: image file.
      max_pixels: number of pixels above which an image is refused; 0 for Pillow's
        limit.
      option: name of the option that sets `max_pixels`, for messages.
      warn: is called with a sentence if a defect of the file was repaired.

    Returns:
      uint8 RGB [H, W, 3], rotated by its EXIF orientation.

    Raises:
      InputError: the file is missing, truncated or not an image, or its size exceeds
        the limit.
    """
    stored = upright.read(path, max_pixels, option)
    if stored.repairs:
        warn(
            f"{path} is incomplete, but all of its pixels are there: "
            f"{', and '.join(stored.repairs)}"
        )
    return stored.pixels
