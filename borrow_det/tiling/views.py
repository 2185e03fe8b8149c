"""Views of images larger than the network's input: overlapping tiles, the entire image.

Windows are `[y_min, x_min, y_max, x_max]` in pixels of the image. The detections of the
views are merged by merging.py.
"""

import math
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from borrow_det.errors import InputError

MAX_OVERLAP = 0.9


class Tiles(NamedTuple):
    """A rule that splits images into views.

    With neither `grid` nor `size`, the only view is the entire image.

    Attributes:
      grid: (rows, columns) of tiles in every image, or None.
      size: (height, width) of a tile in pixels; "auto" for the largest tile that the
        network sees at full resolution; or None.
      overlap: overlap of neighboring tiles as a fraction of a tile's side.
      whole: true if the entire image is a view in addition to the tiles.
    """

    grid: tuple[int, int] | None
    size: tuple[int, int] | Literal["auto"] | None
    overlap: float
    whole: bool

    def views(
        self, image_size: tuple[int, int], full_resolution: tuple[int, int]
    ) -> np.ndarray:
        """Returns the views of an image, int [v, 4]; see `windows`.

        Args:
          image_size: (height, width) of the image in pixels.
          full_resolution: (height, width) of the largest view that is not shrunk.
        """
        tile = image_size
        if self.grid is not None:
            tile = grid_tile(image_size, *self.grid, self.overlap)
        elif self.size == "auto":
            tile = full_resolution
        elif self.size is not None:
            tile = self.size
        return windows(image_size, tile, self.overlap, self.whole)


def full_resolution(
    canvas: tuple[int, int], input_size: tuple[int, int]
) -> tuple[int, int]:
    """Returns (height, width) in pixels of the largest view that is not shrunk.

    Args:
      canvas: (height, width) of a canvas, which views are put on.
      input_size: (height, width) of the network's input.
    """
    return min(canvas[0], input_size[0]), min(canvas[1], input_size[1])


def make_tiles(
    tiles: str | Sequence[int] | None = None,
    tile_size: str | int | Sequence[int] | None = None,
    overlap: float = 0.2,
    whole: bool = True,
    prefix: str = "",
) -> Tiles:
    """Makes the rule that the options of a command or a call describe.

    Args:
      tiles: "ROWSxCOLUMNS", (rows, columns), "auto", or None.
      tile_size: side of a square tile in pixels, "HEIGHTxWIDTH", (height, width), or
        None.
      overlap: overlap of neighboring tiles as a fraction of a side, in [0, 0.9].
      whole: true to add the entire image as a view.
      prefix: text before the names of options in error messages, such as "--".

    Raises:
      InputError: an option has a wrong value, or both kinds of tiles are given.
    """
    if tiles is not None and tile_size is not None:
        raise InputError(f"give {prefix}tiles or {prefix}tile_size, not both")
    if not 0 <= overlap <= MAX_OVERLAP:
        raise InputError(
            f"{prefix}overlap={overlap} is not a number from 0 to {MAX_OVERLAP}"
        )
    if isinstance(tiles, str) and tiles == "auto":
        return Tiles(None, "auto", overlap, whole)
    if tiles is not None:
        shape = _pair(tiles)
        if shape is None:
            raise InputError(f"{prefix}tiles={tiles} is not ROWSxCOLUMNS or auto")
        return Tiles(shape, None, overlap, whole)
    if tile_size is not None:
        side = str(tile_size)
        shape = _pair(f"{side}x{side}" if side.isdecimal() else tile_size)
        if shape is None:
            raise InputError(f"{prefix}tile_size={tile_size} is not N or HEIGHTxWIDTH")
        return Tiles(None, shape, overlap, whole)
    return Tiles(None, None, overlap, whole)


def _pair(value: str | int | Sequence[int]) -> tuple[int, int] | None:
    """Reads "AxB" or (A, B), positive integers; returns None for anything else."""
    if isinstance(value, str):
        text = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", value, re.ASCII)
        return (int(text[1]), int(text[2])) if text else None
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        return None
    first, second = value
    if not all(isinstance(n, (int, np.integer)) and n > 0 for n in (first, second)):
        return None
    return int(first), int(second)


def grid_tile(
    size: tuple[int, int], rows: int, columns: int, overlap: float
) -> tuple[int, int]:
    """Returns the (height, width) of tiles of which `rows` x `columns` cover an image.

    Args:
      size: (height, width) of the image in pixels.
      rows: tiles from top to bottom.
      columns: tiles from left to right.
      overlap: overlap of neighbors as a fraction of a tile's side, in [0, 1).
    """

    def side(length: int, count: int) -> int:
        return min(length, math.ceil(length / (1 + (count - 1) * (1 - overlap))))

    return side(size[0], rows), side(size[1], columns)


def windows(
    size: tuple[int, int],
    tile: tuple[int, int],
    overlap: float,
    whole: bool = True,
) -> np.ndarray:
    """Returns the views of an image: tiles row by row, then the entire image.

    Tiles are spread evenly from border to border, so neighbors overlap by at least
    `overlap` of a side; none leaves the image. An image that one tile covers is one
    view.

    Args:
      size: (height, width) of the image in pixels.
      tile: (height, width) of a tile in pixels.
      overlap: fraction of a tile's side, in [0, 1).
      whole: true to add the entire image as a view. Objects larger than a tile need
        it.

    Returns:
      int [v, 4]; the entire image, if added, comes last.
    """
    starts = []
    for side, length in zip(size, tile, strict=True):
        length = min(side, length)
        room = side - length
        # The small term: 1 - 0.9 is below a tenth, which would add a tile.
        count = 1 + math.ceil(room / (length * (1 - overlap)) - 1e-9)
        starts.append([round(room * i / max(count - 1, 1)) for i in range(count)])
    views = [
        (y, x, y + min(size[0], tile[0]), x + min(size[1], tile[1]))
        for y in starts[0]
        for x in starts[1]
    ]
    if whole and len(views) > 1:
        views.append((0, 0, *size))
    return np.array(views, int)
