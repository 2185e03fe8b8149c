"""Objects of photographs that can be cut out, their pixels, and the colors around."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from borrow_det.data.datasets import crop_windows
from borrow_det.data.datasets.folder_records import FolderRecords
from borrow_det.data.datasets.opened import Record
from borrow_det.data.images import decode
from borrow_det.ops import boxes as box_ops

# Longer over shorter side of a box, and share of a box that another one covers.
MAX_ASPECT = 2.3
_MAX_COVERED = 0.25

_CACHED = 2048  # Number of cut-outs in memory.
_COLOR_SIDE = 64  # Side of the shrunk photographs whose colors are measured.
_FEWEST_PIXELS = 16  # Smallest number of pixels outside the boxes to measure.


class CutOut(NamedTuple):
    """One object that can be cut out.

    Attributes:
      photograph: index of its photograph in the split.
      number: index of its box in the photograph.
      label: class index.
      window: (top, left, bottom, right) of the part of the photograph that shows its
        box and the margin around it, in pixels.
      box: [y_min, x_min, y_max, x_max] of its box in the window, relative to the sides
        of the window.
    """

    photograph: int
    number: int
    label: int
    window: tuple[int, int, int, int]
    box: tuple[float, float, float, float]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the window in pixels."""
        top, left, bottom, right = self.window
        return bottom - top, right - left

    @property
    def side(self) -> float:
        """Square root of the area of the box, in pixels of the photograph."""
        height, width = self.size
        y_min, x_min, y_max, x_max = self.box
        return float(np.sqrt((y_max - y_min) * height * (x_max - x_min) * width))


class Colors(NamedTuple):
    """Colors of a photograph outside its boxes; white is 255.

    Attributes:
      mean: float64 [3], RGB.
      covariance: float64 [3, 3].
    """

    mean: np.ndarray
    covariance: np.ndarray


class Photographs:
    """The photographs of a split, and the objects that can be cut out of them.

    An object can be cut out if it is neither a crowd nor difficult, and its box is
    suitable: the shorter side has at least `min_side` pixels, the longer one is at most
    `MAX_ASPECT` times as long, the box and the margin are inside the photograph (at the
    border, the object may be truncated), and no other box covers more than a quarter of
    it.

    Attributes:
      cut_outs: these objects, in the order of photographs and boxes.
    """

    def __init__(
        self,
        records: FolderRecords,
        convert: Callable[[Record, int], Record],
        min_side: float,
        context: float,
        max_size: int,
    ):
        """Reads all boxes; photographs are decoded when they are needed.

        Args:
          records: the split, of a folder.
          convert: function of (builder's record, index) that returns a record.
          min_side: smallest side of a box, in pixels of the photograph.
          context: margin around a box relative to its sides.
          max_size: largest number of pixels of a side of a cut-out. Larger ones are
            shrunk when they are read, by averaging over areas.
        """
        self._records, self._convert, self._max_size = records, convert, max_size
        self._annotated = records.without_images()
        self.cut_outs: list[CutOut] = []
        for index in range(len(records)):
            record = convert(self._annotated[index], index)
            self.cut_outs += _find(index, record, min_side, context)
        self._read = functools.lru_cache(_CACHED)(self._read_once)
        self.colors = functools.cache(self._measure_colors)

    def __len__(self) -> int:
        """Returns the number of photographs."""
        return len(self._records)

    def file_name(self, photograph: int) -> str:
        """Returns the file name of a photograph."""
        return self._convert(self._annotated[photograph], photograph)["file_name"]

    def pixels(self, cut_out: CutOut, size: tuple[int, int]) -> np.ndarray:
        """Returns the window of a cut-out at a size.

        Args:
          cut_out: one of `cut_outs`.
          size: (height, width) in pixels. Windows are shrunk by averaging over areas,
            and enlarged by cubic interpolation.

        Returns:
          uint8 RGB [height, width, 3].
        """
        window = self._read(cut_out)
        shrinks = size[0] * size[1] <= window.shape[0] * window.shape[1]
        how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        return cv2.resize(window, size[::-1], interpolation=how)

    def _record(self, photograph: int) -> Record:
        return self._convert(self._records[photograph], photograph)

    def _read_once(self, cut_out: CutOut) -> np.ndarray:
        record = self._record(cut_out.photograph)
        image = decode.decode_image(record, record["file_name"])
        top, left, bottom, right = cut_out.window
        # A copy, so that the rest of the photograph is freed.
        window = image[top:bottom, left:right].copy()
        return decode.shrink_to_fit(window, (self._max_size, self._max_size))

    def _measure_colors(self, photograph: int) -> Colors:
        record = self._record(photograph)
        image = decode.decode_image(record, record["file_name"])
        image = decode.shrink_to_fit(image, (_COLOR_SIDE, _COLOR_SIDE))
        outside = _outside(record["boxes"], image.shape[:2])
        if outside.sum() < _FEWEST_PIXELS:
            outside[:] = True
        colors = image[outside].astype(np.float64)
        return Colors(colors.mean(axis=0), np.cov(colors, rowvar=False, ddof=0))


def by_class(cut_outs: Sequence[CutOut]) -> dict[int, list[CutOut]]:
    """Returns cut-outs by label."""
    found: dict[int, list[CutOut]] = {}
    for cut_out in cut_outs:
        found.setdefault(cut_out.label, []).append(cut_out)
    return found


def _find(
    photograph: int, record: Record, min_side: float, context: float
) -> list[CutOut]:
    """Returns the objects of one photograph that can be cut out."""
    boxes = record["boxes"].astype(np.float64)
    size = np.array([record["height"], record["width"]])
    sides = (boxes[:, 2:] - boxes[:, :2]) * size
    rounding = 1e-3  # Normalized boxes are rounded.
    margin = np.maximum(context * sides, 1) - rounding
    inside = (boxes[:, :2] * size >= margin) & ((1 - boxes[:, 2:]) * size >= margin)
    kept = (
        crop_windows.usable(record, min_side)
        & inside.all(axis=1)
        & (sides.max(axis=1) <= MAX_ASPECT * sides.min(axis=1) + rounding)
        & (_covered(boxes) <= _MAX_COVERED)
    )
    found = []
    for number in np.flatnonzero(kept).tolist():
        window = crop_windows.window(record, boxes[number], context)
        corner, extent = window[:2], window[2:] - window[:2]
        box = (boxes[number].reshape(2, 2) * size - corner) / extent
        found.append(
            CutOut(
                photograph,
                number,
                int(record["labels"][number]),
                tuple(window.tolist()),
                tuple(box.ravel().tolist()),
            )
        )
    return found


def _covered(boxes: np.ndarray) -> np.ndarray:
    """Returns the largest share of each box that another one covers, float64 [n]."""
    shared = box_ops.intersection(boxes, boxes)
    np.fill_diagonal(shared, 0)
    return shared.max(axis=1, initial=0) / np.maximum(box_ops.area(boxes), 1e-12)


def _outside(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns a mask of the pixels whose centers are in no box, bool [*size]."""
    y, x = ((np.arange(n) + 0.5) / n for n in size)
    rows = (boxes[:, 0, None] <= y) & (y <= boxes[:, 2, None])
    columns = (boxes[:, 1, None] <= x) & (x <= boxes[:, 3, None])
    inside = rows[:, :, None] & columns[:, None, :]
    return np.logical_not(inside.any(axis=0))
