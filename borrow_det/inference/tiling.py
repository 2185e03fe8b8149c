"""Detection in images larger than the network's input: overlapping tiles, merged.

Boxes and windows are `[y_min, x_min, y_max, x_max]` in pixels of the image. Everything
runs on the host, on a few hundred boxes per image.
"""

import math
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from borrow_det.errors import InputError
from borrow_det.ops import boxes as box_ops

MAX_OVERLAP = 0.9
# A box counts as cut by a tile's border if it ends within this fraction of the tile's
# side from it: networks do not hit a border to the pixel.
_BORDER = 0.02


class ViewDetections(NamedTuple):
    """The n detections of one view of an image."""

    boxes: np.ndarray  # float [n, 4], pixels.
    scores: np.ndarray  # float [n]
    labels: np.ndarray  # int [n]


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


def merge(
    views: Sequence[ViewDetections],
    view_windows: np.ndarray,
    size: tuple[int, int],
    iou: float,
) -> ViewDetections:
    """Merges the detections of several views of an image into one list.

    An object inside two views is found twice, and an object that a tile's border cuts
    is found in parts. Two boxes of a class from different views show the same object
    if they overlap by more than `iou` after both are clipped to the area that both
    views share. By this rule, class by class:
      1. Boxes that no inner border cuts go through greedy NMS, best first.
      2. A part of a box that was kept in 1 is dropped. If its score is higher, the
         kept box, which shows the complete object, takes the score.
      3. Parts of objects that no view shows completely are joined across borders into
         the box around them, with the best of their scores.
      4. The result goes through NMS.
    A single view is returned unchanged. Without overlap of the tiles nothing is seen
    twice, and parts stay parts.

    Args:
      views: detections of each view in pixels of the image; each list has been
        through NMS.
      view_windows: int [v, 4], the views, as `windows` returns them.
      size: (height, width) of the image in pixels.
      iou: threshold in [0, 1]; two boxes that overlap by more are the same object.

    Returns:
      The detections, best first.
    """
    if len(views) == 1:
        return views[0]
    boxes = np.concatenate([np.reshape(v.boxes, (-1, 4)) for v in views])
    scores = np.concatenate([v.scores for v in views]).astype(float)
    labels = np.concatenate([v.labels for v in views]).astype(int)
    view = np.repeat(np.arange(len(views)), [len(v.scores) for v in views])
    cut = _is_cut(boxes, view_windows[view], size)
    merged = []
    for label in np.unique(labels):
        chosen = np.flatnonzero(labels == label)
        # Best first; ties in the order of the views.
        chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
        kept, best = _merge_class(
            boxes[chosen].astype(float),
            scores[chosen],
            view_windows[view[chosen]].astype(float),
            cut[chosen],
            iou,
        )
        merged.append(ViewDetections(kept, best, np.full(len(best), label)))
    if not merged:
        return ViewDetections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    result = ViewDetections(
        *(np.concatenate(parts) for parts in zip(*merged, strict=True))
    )
    order = np.argsort(-result.scores, kind="stable")
    return ViewDetections(*(part[order] for part in result))


def _is_cut(
    boxes: np.ndarray, box_windows: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Marks boxes that end at a border of their window inside the image, bool [n]."""
    sides = np.tile(box_windows[:, 2:] - box_windows[:, :2], 2)
    inner = box_windows != np.array([0, 0, *size])
    near = np.abs(boxes - box_windows) <= np.maximum(1, _BORDER * sides)
    return np.any(inner & near, axis=1)


def _merge_class(
    boxes: np.ndarray,
    scores: np.ndarray,
    box_windows: np.ndarray,
    cut: np.ndarray,
    iou: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Applies steps 1 to 4 of `merge` to the boxes of one class, best first."""
    uncut = np.flatnonzero(~cut)
    uncut = uncut[_suppress(boxes[uncut], iou)]
    kept_boxes, kept_scores = boxes[uncut].copy(), scores[uncut].copy()
    unmatched = []
    for part in np.flatnonzero(cut):
        overlap = _shared_iou(
            boxes[part], box_windows[part], kept_boxes, box_windows[uncut]
        )
        if overlap.size and overlap.max() > iou:
            owner = np.argmax(overlap)
            kept_scores[owner] = max(kept_scores[owner], scores[part])
        else:
            unmatched.append(part)
    parts = np.array(unmatched, int)
    for group in _joined(boxes[parts], box_windows[parts], iou):
        members = parts[group]
        around = [*boxes[members, :2].min(axis=0), *boxes[members, 2:].max(axis=0)]
        kept_boxes = np.concatenate([kept_boxes, [around]])
        kept_scores = np.append(kept_scores, scores[members].max())
    order = np.argsort(-kept_scores, kind="stable")
    order = order[_suppress(kept_boxes[order], iou)]
    return kept_boxes[order], kept_scores[order]


def _joined(boxes: np.ndarray, box_windows: np.ndarray, iou: float) -> list[list[int]]:
    """Groups the parts of one object: lists of indices, at most one part per view.

    A group grows from its best part: every other view adds the part that overlaps a
    member most, and that part adds its own neighbors.
    """
    free = np.ones(len(boxes), bool)
    groups = []
    for seed in range(len(boxes)):
        if not free[seed]:
            continue
        group = []
        waiting = [seed]
        free[seed] = False
        seen = {tuple(box_windows[seed])}
        while waiting:
            member = waiting.pop()
            group.append(member)
            overlap = _shared_iou(
                boxes[member], box_windows[member], boxes, box_windows
            )
            for other in np.argsort(-overlap, kind="stable"):
                view = tuple(box_windows[other])
                if overlap[other] <= iou:
                    break
                if free[other] and view not in seen:
                    free[other] = False
                    seen.add(view)
                    waiting.append(int(other))
        groups.append(group)
    return groups


def _shared_iou(
    box: np.ndarray, window: np.ndarray, boxes: np.ndarray, box_windows: np.ndarray
) -> np.ndarray:
    """IoU [n] of a box with others, clipped to the area that both windows share."""
    low = np.maximum(window[:2], box_windows[:, :2])
    high = np.minimum(window[2:], box_windows[:, 2:])
    ours, theirs = _clip(box[None], low, high), _clip(boxes, low, high)
    return box_ops.iou(ours[:, None], theirs[:, None])[:, 0, 0]


def _clip(boxes: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Clips boxes [n, 4] to the areas from `low` to `high`, both [n, 2]."""
    corners = (np.maximum(boxes[:, :2], low), np.minimum(boxes[:, 2:], high))
    return np.concatenate(corners, axis=1)


def _suppress(boxes: np.ndarray, iou: float) -> np.ndarray:
    """Indices of the boxes that greedy NMS keeps; boxes are sorted, best first."""
    kept = []
    alive = np.ones(len(boxes), bool)
    for i in range(len(boxes)):
        if alive[i]:
            kept.append(i)
            alive &= box_ops.iou(boxes[i : i + 1], boxes)[0] <= iou
    return np.array(kept, int)
