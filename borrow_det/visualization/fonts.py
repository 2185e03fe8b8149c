"""Fonts for names in any script.

DejaVu Sans, which Matplotlib brings, draws all that it can: Latin, Greek, Cyrillic,
Arabic, Hebrew and more. Fonts of the system draw the rest. No further font is bundled:
one with Chinese characters alone has many megabytes, and none has every script. A class
whose name no font can draw is shown by the id of its category.

Fonts in the folder that the environment variable BORROW_DET_FONTS names are preferred
to those of the system. Of a collection (.ttc), the first font counts. Color fonts,
which Pillow draws at one size only, and damaged files are skipped.

Pillow joins and orders the letters of Arabic, Devanagari and similar scripts if it has
Raqm and the system has FriBidi (`python -m PIL.features`). Without them, right-to-left
words are written from right to left with unjoined letters, and other scripts one letter
after the other.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import ImageDraw, ImageFont, features

FOLDER_VARIABLE = "BORROW_DET_FONTS"
LONGEST = 64  # Characters of a drawn text; the end of a longer one is left out.
LABEL = 24  # The same of a class's name in a plot.

_DEJAVU = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
# Parts of file names. The regular style of a sans-serif font is the easiest to read at
# small sizes; fonts of symbols have a few characters of many scripts.
_STYLES = (
    *("bold", "italic", "oblique", "slanted", "light", "thin", "medium", "semi"),
    *("black", "heavy", "condensed", "narrow", "mono", "serif", "looped", "kufi"),
)
_SYMBOLS = ("symbol", "emoji", "math", "music", "unifont")
_BOXES = "lastresort"  # Its glyphs are boxes that name the block of a character.
_JOINERS = "\u200c\u200d"  # Between letters, whose shapes they change.
_RIGHT_TO_LEFT = ("R", "AL")


class _Font:
    """A font file and the characters that it draws."""

    def __init__(self, path: str) -> None:
        """Reads the font's characters.

        Raises:
          RuntimeError, OSError: the file is damaged or cannot be read.
        """
        self.path = path
        self._characters = np.sort(np.fromiter(FT2Font(path).get_charmap(), np.int64))
        self._tried: dict[str, bool] = {}

    def draws(self, text: str) -> bool:
        """Returns whether the font has a glyph with ink for each visible character."""
        return all(
            self._draws_one(character)
            for character in text
            if not (character in _JOINERS or _is_selector(character))
        )

    def _draws_one(self, character: str) -> bool:
        if character not in self._tried:
            i = np.searchsorted(self._characters, ord(character))
            has = self._characters[i : i + 1] == ord(character)
            self._tried[character] = bool(has.any()) and (
                character == " " or self._has_ink(character)
            )
        return self._tried[character]

    def _has_ink(self, character: str) -> bool:
        """Returns whether Pillow draws the glyph, and something is to be seen."""
        try:
            font = ImageFont.truetype(
                self.path, 20, layout_engine=ImageFont.Layout.BASIC
            )
            return font.getmask(character).getbbox() is not None
        except OSError:  # Colors at one size only, or a damaged file.
            return False


class _Library:
    """Fonts in the order of preference, read when they are needed.

    Args:
      paths: font files, the preferred ones first.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._unread = iter(paths)
        self._fonts: list[_Font] = []
        self._found: dict[str, _Font | None] = {}

    def find(self, text: str) -> _Font | None:
        """Returns the first font that draws all of the text, or None."""
        if text not in self._found:
            self._found[text] = next((f for f in self if f.draws(text)), None)
        return self._found[text]

    def __iter__(self) -> Iterator[_Font]:
        yield from self._fonts
        for path in self._unread:
            try:
                font = _Font(path)
            except (RuntimeError, OSError):
                continue
            self._fonts.append(font)
            yield font


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of text, ready to be drawn.

    Attributes:
      runs: parts from left to right: font, text, and x of its start in pixels.
      ascent: pixels from the top of the line to the baseline.
      box: (left, top, right, bottom) of the ink and the advance in pixels, relative to
        the point at which the line is drawn.
      direction: "ltr" or "rtl", that of the first letter; None if Pillow lacks Raqm.
    """

    runs: tuple[tuple[ImageFont.FreeTypeFont, str, int], ...]
    ascent: int
    box: tuple[float, float, float, float]
    direction: str | None

    def draw(
        self, draw: ImageDraw.ImageDraw, at: tuple[int, int], fill: tuple[int, int, int]
    ) -> None:
        """Draws the line with its top left corner at (x, y)."""
        x, y = at
        for font, text, start in self.runs:
            draw.text(
                (x + start, y + self.ascent),
                text,
                fill,
                font,
                anchor="ls",
                direction=self.direction,
            )


def class_text(
    label: int,
    class_names: Sequence[str],
    category_ids: Sequence[int | str] | None = None,
) -> str:
    """Returns the text that is drawn for a class: its name, or "class 3".

    Args:
      label: index of the class.
      class_names: names by label.
      category_ids: ids that replace names without a drawable form; None for labels.
    """
    number = label if category_ids is None else category_ids[label]
    return drawable(class_names[label], drawable(f"class {number}", f"class {label}"))


def drawable(text: str, instead: str) -> str:
    """Returns the text as one line that the fonts can draw, or else `instead`.

    Control and format characters are left out, and white space is collapsed. A text of
    more than LONGEST characters ends in an ellipsis.
    """
    line = _one_line(text)
    clusters = _clusters(line)
    if len(clusters) > LONGEST:
        line = "".join(clusters[: LONGEST - 1]) + "…"
    return line if line and all(font for font, _ in _split(line)) else instead


def label(name: str, number: int) -> str:
    """Returns a class's name for an axis or a legend, of at most LABEL characters."""
    text = drawable(name, f"class {number}")
    clusters = _clusters(text)
    return text if len(clusters) <= LABEL else "".join(clusters[: LABEL - 1]) + "…"


def readable(text: str) -> str:
    """Returns the text as one line, with question marks for what no font can draw."""
    return "".join(
        part if font else "?" * len(part) for font, part in _split(_one_line(text))
    )


def lay_out(text: str, size: int) -> Line:
    """Lays out one line of text.

    Args:
      text: any text; see `readable`.
      size: size of the fonts in pixels.
    """
    parts = [(font, part) for font, part in _split(readable(text)) if font]
    from_the_right = _starts_from_the_right(text)
    if from_the_right:
        parts.reverse()
    shaped = _shapes_letters()
    direction = ("rtl" if from_the_right else "ltr") if shaped else None
    own = _sized(str(_DEJAVU), size, shaped)
    ascent = own.getmetrics()[0]
    runs, boxes, end = [], [(0.0, 0.0, 0.0, 0.0)], 0
    for font, part in parts:
        sized = _sized(font.path, size, shaped)
        part = part if shaped else _visual_order(part)
        left, top, right, bottom = sized.getbbox(part, direction=direction, anchor="ls")
        boxes.append((end + left, top, end + right, bottom))
        runs.append((sized, part, end))
        end += round(sized.getlength(part, direction=direction))
    lefts, tops, rights, bottoms = zip(*boxes[1:] or boxes, strict=True)
    if any(font is not own for font, _, _ in runs):  # Some scripts are taller.
        ascent = max(ascent, -int(min(tops)))
    box = (min(lefts), ascent + min(tops), max(rights), ascent + max(bottoms))
    return Line(tuple(runs), ascent, box, direction)


@contextlib.contextmanager
def figure_text(texts: Iterable[str]) -> Iterator[None]:
    """Lets the figures that Matplotlib draws meanwhile contain these texts.

    The figures must be created and drawn inside. Matplotlib joins and orders letters
    from version 3.11 on.

    Args:
      texts: results of `drawable`, `readable` or `class_text`.
    """
    families = list(matplotlib.rcParams["font.family"])
    found = {
        font.path: None
        for text in texts
        if not text.isascii()
        for font, _ in _split(text)
        if font
    }
    families += [_family(path) for path in found]
    with matplotlib.rc_context({"font.family": families}):
        yield


@functools.cache
def _family(path: str) -> str:
    """Registers a font with Matplotlib, for any weight; returns the family's name."""
    from matplotlib import font_manager  # Slow at its first import after an update.

    # A family of its own: others of the system may have the font's name.
    family = f"borrow_det {path}"
    font_manager.fontManager.ttflist += [
        font_manager.FontEntry(fname=path, name=family, weight=w, size="scalable")
        for w in (400, 700)
    ]
    return family


def _split(text: str) -> list[tuple[_Font | None, str]]:
    """Splits text into runs with their fonts; None where no font has the glyphs.

    A word has a single font if one draws all of it, so that its letters can join.
    """
    library = _library(os.environ.get(FOLDER_VARIABLE, ""))
    runs: list[tuple[_Font | None, str]] = []
    for piece in re.findall(" +|[^ ]+", text):
        one = library.find(piece)
        for part in [piece] if one else _clusters(piece):
            font = one or library.find(part)
            last = runs[-1][0] if runs else None
            if runs and last and part[0] == " " and last.draws(" "):
                font = last
            if runs and last is font:
                runs[-1] = (last, runs[-1][1] + part)
            else:
                runs.append((font, part))
    return runs


@functools.cache
def _library(folder: str) -> _Library:
    """Returns DejaVu Sans, then the fonts of a folder, then those of the system."""
    return _Library(_font_files(folder))


def _font_files(folder: str) -> Iterator[str]:
    yield str(_DEJAVU)
    from matplotlib import font_manager  # Slow at its first import after an update.

    if folder:
        own = font_manager.findSystemFonts([os.path.expanduser(folder)])
        yield from sorted(own, key=_preference)
    yield from sorted(
        (p for p in font_manager.findSystemFonts() if _BOXES not in p.lower()),
        key=_preference,
    )


def _preference(path: str) -> tuple[bool, int, str]:
    """Returns a key that sorts plain fonts of scripts before others."""
    name = pathlib.Path(path).stem.lower()
    return (
        any(word in name for word in _SYMBOLS),
        sum(word in name for word in _STYLES),
        path,
    )


@functools.lru_cache(maxsize=64)
def _sized(path: str, size: int, shaped: bool) -> ImageFont.FreeTypeFont:
    layout = ImageFont.Layout.RAQM if shaped else ImageFont.Layout.BASIC
    return ImageFont.truetype(path, size, layout_engine=layout)


def _one_line(text: str) -> str:
    """Returns the visible characters of a text, in composed form, on one line."""
    text = " ".join(text.split())
    kept = [
        c
        for i, c in enumerate(text)
        if not (unicodedata.category(c) in ("Cc", "Cf", "Cs") or _is_selector(c))
        or (c in _JOINERS and _joins(text[i - 1 : i] + text[i + 1 : i + 2]))
    ]
    return unicodedata.normalize("NFC", " ".join("".join(kept).split()))


def _joins(neighbors: str) -> bool:
    """Returns whether a joiner between two characters can change their shapes."""
    return (
        len(neighbors) == 2
        and all(unicodedata.category(c)[0] in "LM" for c in neighbors)
        and _shapes_letters()
    )


def _shapes_letters() -> bool:
    """Returns whether Pillow joins and orders letters."""
    return bool(features.check("raqm"))


def _clusters(text: str) -> list[str]:
    """Splits text into characters, each with the marks and joiners after it."""
    clusters: list[str] = []
    for c in text:
        attached = unicodedata.category(c)[0] == "M" or c in _JOINERS
        if clusters and attached and clusters[-1] != " ":
            clusters[-1] += c
        else:
            clusters.append(c)
    return clusters


def _is_selector(character: str) -> bool:
    """Returns whether the character selects a variant of the glyph before it."""
    return (
        "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    )


def _starts_from_the_right(text: str) -> bool:
    """Returns whether the first letter belongs to a right-to-left script."""
    directions = map(unicodedata.bidirectional, text)
    strong = (d for d in directions if d in ("L", *_RIGHT_TO_LEFT))
    return next(strong, "L") in _RIGHT_TO_LEFT


def _visual_order(text: str) -> str:
    """Reverses the right-to-left words of a text, and their order."""
    clusters = _clusters(text)
    marks = "".join(
        " " if c == " " else "rl"[unicodedata.bidirectional(c[0]) not in _RIGHT_TO_LEFT]
        for c in clusters
    )
    for words in re.finditer("r(?:[r ]*r)?", marks):
        part = slice(*words.span())
        clusters[part] = clusters[part][::-1]
    return "".join(clusters)
