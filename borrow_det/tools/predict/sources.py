"""Inputs of a call: local files, URLs, cameras, and lists of these."""

import codecs
import collections
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from borrow_det.data.images import inputs
from borrow_det.errors import InputError
from borrow_det.io import file_names, paths, web
from borrow_det.io.problems import Problems


class Source(NamedTuple):
    """One input.

    Attributes:
      place: path of a local image or video, URL of an image or a video, or index of a
        camera.
    """

    place: pathlib.Path | str | int

    @property
    def name(self) -> str:
        """Name in records and messages; a URL's has no password."""
        if isinstance(self.place, pathlib.Path):
            return paths.as_text(self.place)
        if isinstance(self.place, int):
            return f"camera {self.place}"
        return web.shown(self.place)

    @property
    def stem(self) -> str:
        """Stem of the names of its pictures."""
        if isinstance(self.place, pathlib.Path):
            return self.place.stem
        if isinstance(self.place, int):
            return f"camera_{self.place}"
        return pathlib.PurePosixPath(web.name_in(self.place)).stem

    @property
    def readings(self) -> list[file_names.Parts]:
        """Parts of its path, for each way to read it; none for a camera."""
        if isinstance(self.place, pathlib.Path):
            return [pathlib.Path(os.path.abspath(self.place)).parts[1:]]
        return [] if isinstance(self.place, int) else file_names.readings_of(self.name)

    @property
    def may_be_video(self) -> bool:
        """True for videos, and for URLs that may be one, by their suffix."""
        if isinstance(self.place, pathlib.Path):
            return inputs.is_video(self.place)
        if isinstance(self.place, int):
            return True
        suffix = pathlib.PurePosixPath(web.name_in(self.place)).suffix
        return suffix.lower() not in inputs.IMAGE_SUFFIXES


class Found(NamedTuple):
    """Inputs that were found.

    Attributes:
      sources: without duplicates; a file that is named in several ways has the first
        of its names.
      others: numbers of skipped files in folders; see `inputs.Found`.
    """

    sources: list[Source]
    others: Mapping[str, int]


def find(names: Sequence[str], leave_out: pathlib.Path) -> Found:
    """Finds the inputs of a command line.

    Args:
      names: files, folders and patterns (see `inputs.find`), URLs, indices of cameras,
        and lists: text files (.txt) with one of these in each line. A path in a list
        is relative to the folder of the list, or, if nothing is there, to the current
        folder. Empty lines, and lines that begin with `#`, are skipped.
      leave_out: folder whose files are skipped, for results of an earlier call.

    Returns:
      Sources in the order of `names`.

    Raises:
      InputError: an input does not exist, is not of these kinds, or has no image or
        video in it.
    """
    found: dict[object, Source] = {}  # By a key that identifies the input.
    others: collections.Counter[str] = collections.Counter()
    for name in _with_lists(names):
        if web.is_url(name):
            web.check(name)
            found.setdefault(name, Source(name))
        elif name.isascii() and name.isdecimal():
            found.setdefault(int(name), Source(int(name)))
        else:
            below = inputs.find([name], leave_out)
            for path in below.paths:
                place = os.path.realpath(path.parent), path.name
                found.setdefault(place, Source(path))
            others += collections.Counter(below.others)
    return Found(list(found.values()), others)


def _with_lists(names: Sequence[str]) -> Iterator[str]:
    """Yields the names, with the entries of lists in place of the lists."""
    for name in names:
        path = pathlib.Path(paths.expand_home(name))
        if _is_list(path):
            yield from _entries(path)
        else:
            yield name


def _entries(path: pathlib.Path) -> list[str]:
    """Returns the entries of a list; paths are relative to the current folder."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {paths.reason(error)}") from error
    # Some shells write UTF-16, with its byte order mark.
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = content.decode("utf-16", errors="replace")
    else:
        text = content.decode("utf-8-sig", errors="surrogateescape")
    problems = Problems()
    entries = []
    for number, line in enumerate(text.splitlines(), start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        if not web.is_url(entry) and not (entry.isascii() and entry.isdecimal()):
            entry = paths.expand_home(entry)
            below = os.path.join(path.parent, entry)
            there = [name for name in (below, entry) if _exists(name)]
            if not there:
                problems.add("missing input", path, f"line {number}", entry)
            elif _is_list(pathlib.Path(there[0])):
                problems.add("list in a list", path, f"line {number}", entry)
            entry = next(iter(there), entry)
        entries.append(entry)
    problems.refuse(
        None,
        "Paths in a list are relative to its folder, or to the current folder: correct "
        "them, or leave out these lines",
    )
    if not entries:
        raise InputError(f"{path}: the list names no image, video, URL or camera")
    return entries


def _is_list(path: pathlib.Path) -> bool:
    return path.suffix.lower() == ".txt" and path.is_file()


def _exists(name: str) -> bool:
    return os.path.exists(name) or bool(inputs.matching(name))
