"""Annotated images and contact sheets."""

import colorsys
import io
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from borrow_det.io import paths
from borrow_det.visualization import fonts

# Small images are enlarged before drawing, because text and outlines have a minimum
# size: by the integer factor, at most 4, that brings the longer side nearest to this.
_READABLE_SIDE = 1000
_LARGEST_FACTOR = 4
_Color = tuple[int, int, int]


def class_color(label: int) -> tuple[int, int, int]:
    """Returns the RGB color of a class; nearby labels have different hues."""
    # Multiples of the golden ratio spread evenly over the hues, for any number of
    # labels.
    hue = (0.02 + label * 0.6180339887) % 1.0
    value = (1.0, 0.72)[(label // 8) % 2]
    saturation = (0.85, 0.5)[(label // 16) % 2]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def text_color(background: Sequence[float]) -> tuple[int, int, int]:
    """Returns black or white, the one with more contrast to an RGB color in 0..255."""
    red, green, blue = background
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 140
    return (0, 0, 0) if bright else (255, 255, 255)


def shrink(image: np.ndarray, largest: int) -> np.ndarray:
    """Returns the image [H, W, ...] with sides of at most `largest` pixels."""
    scale = largest / max(image.shape[:2])
    if scale >= 1:
        return image
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _enlarge(image: np.ndarray, side: int) -> np.ndarray:
    """Returns the image [H, W, 3] with a longer side of at least `side` pixels."""
    scale = side / max(image.shape[:2])
    if scale <= 1:
        return image
    size = [max(1, round(length * scale)) for length in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)


class Mark(NamedTuple):
    """A box to draw on an image.

    Attributes:
      box: [y_min, x_min, y_max, x_max] normalized to the image.
      text: label next to the box.
      color: RGB.
      dash: (drawn, gap) of the outline, in line widths; None for a solid one.
      crossed: whether to draw the diagonals of the box.
    """

    box: Sequence[float] | np.ndarray
    text: str
    color: _Color
    dash: tuple[int, int] | None = None
    crossed: bool = False


def draw_marks(
    image: np.ndarray, marks: Sequence[Mark], side: int | None = None
) -> np.ndarray:
    """Draws boxes with labels on an image, so that small objects stay visible.

    Outlines are thin and outside the box. A label is next to its box, at the place
    where it covers the least of other boxes and labels.

    Args:
      image: uint8 RGB [H, W, 3].
      marks: the boxes, the last on top.
      side: longer side of the result in pixels; None for the image's own times an
        integer from 1 to 4, larger for small images.

    Returns:
      uint8 RGB, the image in its new size.
    """
    longest = max(image.shape[:2])
    factor = max(1, min(_LARGEST_FACTOR, round(_READABLE_SIDE / longest)))
    image = _enlarge(shrink(image, side or longest), side or factor * longest)
    picture = Image.fromarray(np.ascontiguousarray(image))
    draw = ImageDraw.Draw(picture)
    side = max(picture.size)
    line = max(2, round(side / 640))
    font_size = max(12, round(side / 80))

    rectangles = np.empty((len(marks), 4), int)  # [left, top, right, bottom], pixels.
    corners = np.array([mark.box for mark in marks], np.float64).reshape(-1, 4)
    rectangles[:, 0::2] = np.round(corners[:, 1::2] * picture.width)
    rectangles[:, 1::2] = np.round(corners[:, 0::2] * picture.height)
    for mark, rectangle in zip(marks, rectangles, strict=True):
        draw_outline(draw, rectangle, mark, line)
    covered = rectangles.copy()
    for mark, rectangle in zip(marks, rectangles, strict=True):
        label = fonts.lay_out(mark.text, font_size)
        place = _label_place(label, rectangle, covered, picture.size)
        covered = np.concatenate([covered, [place]])
        _label(draw, label, place, mark.color)
    return np.asarray(picture)


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    scores: np.ndarray | None = None,
    side: int | None = None,
    category_ids: Sequence[int | str] | None = None,
    notes: Sequence[str] = (),
) -> np.ndarray:
    """Draws boxes in the colors of their classes; see `draw_marks`.

    Args:
      image: uint8 RGB [H, W, 3].
      boxes: float [n, 4], [y_min, x_min, y_max, x_max] normalized to the image.
      labels: int [n], 0-based.
      class_names: the name of each label.
      scores: float [n] in [0, 1]; None for ground truth.
      side: longer side of the result in pixels; None for the image's own times an
        integer from 1 to 4, larger for small images.
      category_ids: id of each label, drawn where no font has the glyphs of the name;
        None for the labels.
      notes: text after the class name of each box, such as "#3"; () for none.

    Returns:
      uint8 RGB, the image in its new size.
    """
    marks = []
    # The best detections are drawn last, on top of the others.
    for i in range(len(boxes)) if scores is None else np.argsort(scores):
        text = fonts.class_text(int(labels[i]), class_names, category_ids)
        if notes and notes[i]:
            text = f"{text} {notes[i]}"
        if scores is not None:
            text = f"{text} {scores[i]:.2f}"
        marks.append(Mark(boxes[i], text, class_color(int(labels[i]))))
    return draw_marks(image, marks, side)


def contact_sheet(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Arranges images in a grid on white; all cells have the size of the largest image.

    Args:
      images: uint8 RGB [H_i, W_i, 3], at least one; sizes may differ.
      columns: number of images in a row.

    Returns:
      uint8 RGB [H, W, 3].

    Raises:
      ValueError: images is empty, or columns is not positive.
    """
    if not images or columns < 1:
        raise ValueError("contact_sheet needs at least one image and one column")
    gap = 8
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height = max(image.shape[0] for image in images) + gap
    width = max(image.shape[1] for image in images) + gap
    sheet = np.full((rows * height + gap, columns * width + gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = gap + i // columns * height, gap + i % columns * width
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def write_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes uint8 RGB [H, W, 3] in the format of the path's suffix.

    Missing folders are made. PNG is lossless. JPEG is written with quality 92 and
    without chroma subsampling, which would blur thin outlines.
    """
    path = paths.as_path(path)
    paths.make_folder(path.parent)
    jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    options: dict[str, Any] = {"quality": 92, "subsampling": 0} if jpeg else {}
    file = io.BytesIO()
    file.name = path.name  # Pillow derives the format from it.
    Image.fromarray(np.ascontiguousarray(image)).save(file, **options)
    path.write_bytes(file.getvalue())


def draw_outline(
    draw: ImageDraw.ImageDraw, rectangle: np.ndarray, mark: Mark, line: int
) -> None:
    """Draws a colored line just outside the box, and a dark one around it.

    Args:
      draw: draws on the picture.
      rectangle: [left, top, right, bottom] of the box in pixels.
      mark: color, dashes and diagonals.
      line: width of the outline in pixels.
    """
    left, top, right, bottom = (int(v) for v in rectangle)
    for grow, width, ink in ((line + 1, 1, (0, 0, 0)), (line, line, mark.color)):
        x = (left - grow, right + grow - 1)
        y = (top - grow, bottom + grow - 1)
        # The corners of empty boxes may be in the wrong order.
        draw.rectangle((min(x), min(y), max(x), max(y)), outline=ink, width=width)
    if mark.dash:
        _gaps(draw, (min(x), min(y), max(x), max(y)), mark.dash, line)
    if mark.crossed:
        draw.line((left, top, right - 1, bottom - 1), mark.color)
        draw.line((left, bottom - 1, right - 1, top), mark.color)


def _gaps(
    draw: ImageDraw.ImageDraw,
    outline: tuple[int, int, int, int],
    dash: tuple[int, int],
    line: int,
) -> None:
    """Draws dark gaps into an outline with the outer corners of `outline`."""
    left, top, right, bottom = outline
    drawn, gap = (length * line for length in dash)
    for start in range(left + drawn, right + 1, drawn + gap):
        end = min(start + gap - 1, right)
        draw.rectangle((start, top, end, top + line - 1), fill=(0, 0, 0))
        draw.rectangle((start, bottom - line + 1, end, bottom), fill=(0, 0, 0))
    for start in range(top + drawn, bottom + 1, drawn + gap):
        end = min(start + gap - 1, bottom)
        draw.rectangle((left, start, left + line - 1, end), fill=(0, 0, 0))
        draw.rectangle((right - line + 1, start, right, end), fill=(0, 0, 0))


def _label_place(
    text: fonts.Line,
    rectangle: np.ndarray,
    covered: np.ndarray,
    size: tuple[int, int],
) -> np.ndarray:
    """Finds a place for a label next to its box: [left, top, right, bottom]."""
    left, top, right, bottom = rectangle
    x0, y0, x1, y1 = text.box
    width, height = int(x1 - min(x0, 0)) + 4, int(y1 - min(y0, 0)) + 3
    gap = 3
    candidates = np.array(
        [
            (left - gap, top - gap - height),
            (left - gap, bottom + gap),
            (right + gap - width, top - gap - height),
            (right + gap - width, bottom + gap),
            (right + gap, top),
            (left - gap - width, top),
        ]
    )
    shifted = np.clip(candidates, 0, np.maximum(np.subtract(size, (width, height)), 0))
    extent = np.array((width, height))
    places = np.concatenate([shifted, shifted + extent], axis=1)
    low = np.maximum(places[:, None, :2], covered[None, :, :2])
    high = np.minimum(places[:, None, 2:], covered[None, :, 2:])
    overlap = np.prod(np.maximum(high - low, 0), axis=-1)
    # Overlaps count relative to what they hide: half of a small box is worse than a
    # corner of a large one.
    areas = np.prod(np.maximum(covered[:, 2:] - covered[:, :2], 1), axis=-1)
    hidden = (overlap / np.minimum(areas, width * height)).sum(axis=1)
    moved = np.abs(shifted - candidates).sum(axis=1) / (width + height)
    return places[np.argmin(hidden + 0.1 * moved)]


def _label(
    draw: ImageDraw.ImageDraw, text: fonts.Line, place: np.ndarray, color: _Color
) -> None:
    """Writes text on the color of the class."""
    left, top, right, bottom = (int(v) for v in place)
    draw.rectangle((left, top, right - 1, bottom - 1), fill=color)
    text.draw(draw, (left + 2, top + 1), text_color(color))
