"""Resolution of recorded file names to the files that exist.

Annotation files often come from another machine. Their names of images may have
backslashes, folders that do not exist here, the address of a server, or another Unicode
normal form.
"""

import contextlib
import os
import pathlib
import re
import unicodedata
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeAlias, TypeVar

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_DRIVE = re.compile(r"[A-Za-z]:")
# Suffixes that a converted image may have lost or exchanged.
_IMAGE_SUFFIX = re.compile(
    r"\.(bmp|gif|heic|jfif|jpe|jpe?g|p[bgnp]m|png|tiff?|webp)", re.IGNORECASE
)
# Files next to images that have the same stems.
_OTHER_SUFFIX = re.compile(r"\.(csv|jsonl?|md|np[yz]|pkl|txt|xml|ya?ml)", re.IGNORECASE)
_SHOWN = 4  # Candidates that a message lists.

Parts: TypeAlias = tuple[str, ...]
_Form: TypeAlias = Callable[[str], str]
_T = TypeVar("_T")


class Match(NamedTuple, Generic[_T]):
    """Result of looking up a name.

    Attributes:
      found: the only match, or None.
      candidates: equally good matches, if there are several.
    """

    found: _T | None
    candidates: tuple[_T, ...] = ()


class NameIndex(Generic[_T]):
    """Items by path, looked up by names with other folders, cases or suffixes.

    The best match of a name is the item whose path has the most trailing parts in
    common with it, compared in Unicode's normal form C. Only without such an item are
    cases ignored, and then suffixes of images.
    """

    def __init__(self, items: Iterable[tuple[Parts, _T]]):
        """Stores the items, (parts of the path, item) each."""
        self._items = [(tuple(map(_composed, parts)), item) for parts, item in items]
        self._tables: dict[tuple[_Form, int], dict[Parts, list[int]]] = {}

    def find(self, names: Sequence[Parts], places: Sequence[Parts] = ()) -> Match[_T]:
        """Looks up a name.

        Args:
          names: readings of the name, the most literal first.
          places: folders in which items win over equally good ones in others, the first
            before the next.
        """
        readings = [tuple(map(_composed, parts)) for parts in names if parts]
        rooms = [tuple(map(_composed, parts)) for parts in places]
        for form in (_same, str.casefold, _stem):
            for parts in readings:
                best, length = self._best(parts, form)
                for place in rooms:
                    below = [i for i in best if self._items[i][0][:-length] == place]
                    if len(below) == 1:
                        return Match(self._items[below[0]][1])
                items = tuple(self._items[index][1] for index in best)
                if items:
                    return Match(items[0]) if len(items) == 1 else Match(None, items)
        return Match(None)

    def _best(self, parts: Parts, form: _Form) -> tuple[list[int], int]:
        """Returns the items with the most trailing parts of a name, and their number.

        A longer part is not compared where a shorter one has a single item.
        """
        best, length = self._table(form, 1).get(_tail(parts, form, 1), []), 1
        while len(best) > 1 and length < len(parts):
            longer = self._table(form, length + 1).get(_tail(parts, form, length + 1))
            if not longer:
                break
            best, length = longer, length + 1
        return best, length

    def _table(self, form: _Form, length: int) -> dict[Parts, list[int]]:
        """Returns the items by their last `length` parts."""
        if (form, length) not in self._tables:
            table: dict[Parts, list[int]] = {}
            for index, (parts, _) in enumerate(self._items):
                fits = len(parts) >= length
                if fits and (form is not _stem or _may_be_image(parts[-1])):
                    table.setdefault(_tail(parts, form, length), []).append(index)
            self._tables[form, length] = table
        return self._tables[form, length]


class FileIndex:
    """The files of a folder and its subfolders, looked up by recorded names.

    The folder is read once. Links to folders are followed, but not in a circle.

    Attributes:
      folder: the folder.
    """

    def __init__(self, folder: pathlib.Path):
        """Reads the names of the files."""
        self.folder = folder
        files = list(files_below(folder))
        self._exact = {"/".join(parts) for parts in files}
        self._index = NameIndex((parts, parts) for parts in files)
        self._rooms: dict[pathlib.Path, Parts | None] = {}

    def resolve(
        self, name: str, places: Sequence[pathlib.Path] = ()
    ) -> Match[pathlib.Path]:
        """Returns the file that a recorded name means.

        Args:
          name: name of a file as recorded, with slashes or backslashes.
          places: folders to prefer, in this order: a file at exactly that name below
            one of them is found first.
        """
        rooms = [self._relative(place) for place in places]
        for place, room in zip(places, rooms, strict=True):
            for reading in dict.fromkeys((name, name.replace("\\", "/"))):
                if self._is_file(place, room, reading):
                    return Match(place / reading)
        inside = [room for room in rooms if room is not None]
        found, candidates = self._index.find(readings_of(name), inside)
        if found is not None:
            return Match(self.folder.joinpath(*found))
        paths = tuple(self.folder.joinpath(*parts) for parts in sorted(candidates))
        # Links may give one file several names.
        if paths and all(_same_file(path, paths[0]) for path in paths[1:]):
            return Match(paths[0])
        return Match(None, paths)

    def _is_file(self, place: pathlib.Path, room: Parts | None, reading: str) -> bool:
        """Returns true if there is a file of that name below a folder."""
        parts = [part for part in reading.split("/") if part not in ("", ".")]
        if not parts:
            return False
        if room is None or ".." in parts or reading.startswith("/"):
            # False for names that are invalid for files.
            return os.path.isfile(os.path.join(place, reading))
        return "/".join((*room, *parts)) in self._exact

    def _relative(self, place: pathlib.Path) -> Parts | None:
        """Returns the parts of a folder below this one; None for other folders."""
        if place not in self._rooms:
            inside = place.is_relative_to(self.folder)
            self._rooms[place] = (
                place.relative_to(self.folder).parts if inside else None
            )
        return self._rooms[place]


def readings_of(name: str) -> list[Parts]:
    """Returns the parts of a recorded name, for each way to read it.

    The name may be a path of this or another system, or a URL. `.` and `..`, drives and
    servers are left out.
    """
    readings = [name, name.replace("\\", "/")]
    if _URL.match(name):
        try:
            path = urllib.parse.urlsplit(name).path
        except ValueError:
            path = name
        readings += [path, urllib.parse.unquote(path)]
    return list(dict.fromkeys(filter(None, map(_parts, readings))))


def reason(name: str, match: Match, folder: pathlib.Path) -> str:
    """Returns a clause about a name without a unique match.

    Args:
      name: the recorded name.
      match: the result without a file.
      folder: the folder that was searched.
    """
    if not name:
        return "the image has no file_name"
    if not match.candidates:
        return f"the image {name!r} is not in {folder}"
    shown = [str(_below(path, folder)) for path in match.candidates[:_SHOWN]]
    more = len(match.candidates) - len(shown)
    rest = f" and {more} more" if more else ""
    return (
        f"the image {name!r} may be any of {', '.join(shown)}{rest} in {folder}: write "
        "a path relative to that folder"
    )


def _below(path: object, folder: pathlib.Path) -> object:
    if isinstance(path, pathlib.Path) and path.is_relative_to(folder):
        return path.relative_to(folder)
    return path


def _parts(path: str) -> Parts:
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    if parts and _DRIVE.fullmatch(parts[0]):
        parts = parts[1:]
    return tuple(parts)


def _tail(parts: Parts, form: _Form, length: int) -> Parts:
    """Returns the last parts of a path in a form that is equal for equal names."""
    fold = _same if form is _same else str.casefold
    return (*map(fold, parts[len(parts) - length : -1]), form(parts[-1]))


def _composed(text: str) -> str:
    if text.isascii():
        return text
    # Under an ASCII locale, Python lists the bytes of such a name as surrogates.
    with contextlib.suppress(UnicodeEncodeError):
        raw = text.encode("utf-8", "surrogateescape")
        text = raw.decode("utf-8", "surrogateescape")
    return unicodedata.normalize("NFC", text)


def _same(text: str) -> str:
    return text


def _stem(name: str) -> str:
    """Returns a name in lower case, without its suffix if that is an image's."""
    stem, suffix = os.path.splitext(name.casefold())
    return stem if _IMAGE_SUFFIX.fullmatch(suffix) else name.casefold()


def _may_be_image(name: str) -> bool:
    return not _OTHER_SUFFIX.fullmatch(os.path.splitext(name)[1])


def _same_file(first: pathlib.Path, second: pathlib.Path) -> bool:
    try:
        return os.path.samefile(first, second)
    except OSError:
        return False


def files_below(folder: pathlib.Path) -> Iterator[Parts]:
    """Yields the files of a folder and its subfolders, as parts relative to it.

    Links to folders are followed, but not in a circle.
    """
    waiting: list[tuple[str, Parts, frozenset[tuple[int, int]]]] = [
        (os.fspath(folder), (), frozenset())
    ]
    while waiting:
        path, parts, above = waiting.pop()
        try:
            status = os.stat(path)
            with os.scandir(path) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError:  # Without permission, for example: its files are missing.
            continue
        place = (status.st_dev, status.st_ino)
        if place in above:  # A link to a folder that contains it.
            continue
        for entry in entries:
            try:
                if entry.is_dir():
                    inner = (*parts, entry.name)
                    waiting.append((entry.path, inner, above | {place}))
                elif entry.is_file():
                    yield (*parts, entry.name)
            except OSError:
                continue
