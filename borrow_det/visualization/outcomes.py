"""Pictures of one image with its hits, false positives and objects not found."""

import dataclasses
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from borrow_det.visualization import annotate, fonts

_INK = (0, 0, 0)
_LEAST_FONT_SIZE = 13
_LEAST_WIDTH = 500  # Room for each entry of the legend.


@dataclasses.dataclass(frozen=True)
class Style:
    """The look of an outcome, distinct without color.

    Attributes:
      sign: first character of its labels.
      meaning: words of the legend.
      color: RGB.
      dash: see `annotate.Mark`.
      crossed: see `annotate.Mark`.
    """

    sign: str
    meaning: str
    color: tuple[int, int, int]
    dash: tuple[int, int] | None = None
    crossed: bool = False

    def mark(self, box: Sequence[float] | np.ndarray, text: str = "") -> annotate.Mark:
        """Returns a mark of this outcome; see `annotate.Mark`."""
        text = f"{self.sign} {text}".rstrip()
        return annotate.Mark(box, text, self.color, self.dash, self.crossed)


# The marks and colors of the results page (page.css).
HIT = Style("\u2713", "hit", (73, 182, 255))
WRONG = Style("\u2717", "false positive", (255, 160, 46), (9, 4), crossed=True)
LOST = Style("?", "not found", (255, 111, 192), (2, 2))
IGNORED = Style("\u00b7", "crowd or difficult: does not count", (255, 255, 255))
STYLES = (HIT, WRONG, LOST, IGNORED)


def draw(
    image: np.ndarray,
    objects: Sequence[annotate.Mark],
    detections: Sequence[annotate.Mark],
    lines: Sequence[str],
) -> np.ndarray:
    """Draws the objects left, the detections right, and a caption with a legend.

    Args:
      image: uint8 RGB [H, W, 3].
      objects: marks of the objects.
      detections: marks of the detections, the last on top.
      lines: lines of the caption.

    Returns:
      uint8 RGB [H, W, 3].
    """
    sides = [annotate.draw_marks(image, marks) for marks in (objects, detections)]
    return captioned(
        annotate.contact_sheet(sides, columns=2),
        [*lines, "left: annotations; right: detections"],
        STYLES,
    )


def captioned(
    picture: np.ndarray, lines: Sequence[str], legend: Sequence[Style] = ()
) -> np.ndarray:
    """Returns a picture below lines of text and a legend, on white.

    Narrow pictures get a white margin on the right.

    Args:
      picture: uint8 RGB [H, W, 3].
      lines: lines of text; long ones are wrapped.
      legend: styles to explain; () for no legend.

    Returns:
      uint8 RGB [H', W', 3].
    """
    width = max(picture.shape[1], _LEAST_WIDTH)
    margin = width - picture.shape[1]
    picture = np.pad(picture, ((0, 0), (0, margin), (0, 0)), constant_values=255)
    size = max(_LEAST_FONT_SIZE, round(width / 110))
    row, gap = round(1.6 * size), size // 2
    shown = [part for line in lines for part in _wrap(line, size, width - 2 * gap)]
    places = _flow([_entry_width(style, size) for style in legend], width - 2 * gap)
    rows = len(shown) + (places[-1][0] + 1 if places else 0)
    strip = Image.new("RGB", (width, rows * row + 2 * gap), (255, 255, 255))
    ink = ImageDraw.Draw(strip)
    for i, line in enumerate(shown):
        fonts.lay_out(line, size).draw(ink, (gap, gap + i * row), _INK)
    for style, (i, x) in zip(legend, places, strict=True):
        _entry(ink, style, (gap + x, gap + (len(shown) + i) * row), size)
    return np.concatenate([np.asarray(strip), picture])


def _wrap(line: str, size: int, width: int) -> list[str]:
    """Wraps a line, and breaks words that are longer than the width in pixels."""
    line = fonts.readable(line)
    characters, parts = len(line), [line]
    while characters > 1 and any(fonts.lay_out(p, size).box[2] > width for p in parts):
        characters = max(1, characters * 9 // 10)
        parts = textwrap.wrap(line, characters)
    return parts


def _flow(widths: Sequence[float], width: int) -> list[tuple[int, int]]:
    """Returns (row, x in pixels) of entries that fill rows of a width."""
    places, row, x = [], 0, 0
    for entry in widths:
        if x and x + entry > width:
            row, x = row + 1, 0
        places.append((row, x))
        x += int(entry)
    return places


def _entry_width(style: Style, size: int) -> float:
    return fonts.lay_out(f"{style.sign} {style.meaning}", size).box[2] + 5 * size


def _entry(
    ink: ImageDraw.ImageDraw, style: Style, at: tuple[int, int], size: int
) -> None:
    """Draws a box in a style and its meaning."""
    x, y = at
    line = max(2, size // 7)
    box = np.array([x + line, y + line, x + 3 * size, y + size])
    annotate.draw_outline(ink, box, style.mark((0, 0, 0, 0)), line)
    text = fonts.lay_out(f"{style.sign} {style.meaning}", size)
    text.draw(ink, (x + 3 * size + size // 2, y), _INK)
