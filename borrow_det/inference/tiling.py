"""Detection in images larger than the network's input: overlapping tiles, merged.

Everything here is in pixels of the image: boxes and windows are
`[y_min, x_min, y_max, x_max]`. It runs on the host, on a few hundred boxes an image.
"""

import math
from typing import NamedTuple

import numpy as np

# A box is taken for cut by a tile's border when it ends within this share of the
# tile's side from it: networks do not hit a border to the pixel.
_BORDER = 0.02


class Found(NamedTuple):
    """Detections of one image or view, n of them."""

    boxes: np.ndarray  # float [n, 4], pixels.
    scores: np.ndarray  # float [n]
    labels: np.ndarray  # int [n]


def grid(
    size: tuple[int, int], rows: int, columns: int, overlap: float
) -> tuple[int, int]:
    """The size of the tiles of which `rows` x `columns` cover an image.

    Args:
      size: (height, width) of the image in pixels.
      rows: tiles from top to bottom.
      columns: tiles from left to right.
      overlap: of neighbours, as a share of a tile's side, in [0, 1).
    """
    return tuple(
        min(side, math.ceil(side / (1 + (count - 1) * (1 - overlap))))
        for side, count in zip(size, (rows, columns), strict=True)
    )


def windows(
    size: tuple[int, int],
    tile: tuple[int, int],
    overlap: float,
    whole: bool = True,
) -> np.ndarray:
    """The views of an image: tiles row by row, and the whole image.

    Tiles are spread evenly from border to border, so neighbours overlap by at least
    `overlap` of a side; none leaves the image. An image that one tile covers is one
    view.

    Args:
      size: (height, width) of the image in pixels.
      tile: (height, width) of a tile in pixels.
      overlap: share of a tile's side, in [0, 1).
      whole: whether the whole image is a view, too; objects larger than a tile need
        it.

    Returns:
      int [v, 4]; the whole image, if asked for, comes last.
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
    views: list[Found], view_windows: np.ndarray, size: tuple[int, int], iou: float
) -> Found:
    """One list of detections from those of several views of an image.

    An object inside two views is found twice, and one that a tile's border cuts is
    found in parts. Two boxes of a class from different views show the same object
    when, each confined to the area that both views see, they overlap by more than
    `iou`. By this rule, class by class:
      1. boxes that no inner border cuts go through greedy NMS, best first;
      2. a part of a box that was kept in 1 is dropped; its score, if higher, goes to
         that box, which shows the object whole;
      3. parts that no box shows whole are joined across borders into the box around
         them, with the best of their scores;
      4. NMS of all that is left.
    A single view stays as it is. Without overlap of the tiles nothing is seen twice,
    and parts stay parts.

    Args:
      views: the detections of each view, in pixels of the image; each list has been
        through NMS.
      view_windows: [v, 4], the views, as `windows` returns them.
      size: (height, width) of the image in pixels.
      iou: above this overlap, in [0, 1], two boxes are the same object.

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
        found, best = _merge_class(
            boxes[chosen].astype(float),
            scores[chosen],
            view_windows[view[chosen]].astype(float),
            cut[chosen],
            iou,
        )
        merged.append(Found(found, best, np.full(len(best), label)))
    if not merged:
        return Found(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    result = Found(*(np.concatenate(parts) for parts in zip(*merged, strict=True)))
    order = np.argsort(-result.scores, kind="stable")
    return Found(*(part[order] for part in result))


def _is_cut(boxes, box_windows, size):
    """Which boxes end at a border of their window that is not the image's."""
    sides = np.tile(box_windows[:, 2:] - box_windows[:, :2], 2)
    inner = box_windows != np.array([0, 0, *size])
    near = np.abs(boxes - box_windows) <= np.maximum(1, _BORDER * sides)
    return np.any(inner & near, axis=1)


def _merge_class(boxes, scores, box_windows, cut, iou):
    """Steps 1 to 4 of `merge` for one class, its boxes best first."""
    whole = np.flatnonzero(~cut)
    whole = whole[_suppress(boxes[whole], iou)]
    kept_boxes, kept_scores = boxes[whole].copy(), scores[whole].copy()
    parts = []
    for part in np.flatnonzero(cut):
        same = _overlap_in_common(
            boxes[part], box_windows[part], kept_boxes, box_windows[whole]
        )
        if same.size and same.max() > iou:
            owner = np.argmax(same)
            kept_scores[owner] = max(kept_scores[owner], scores[part])
        else:
            parts.append(part)
    parts = np.array(parts, int)
    for group in _joined(boxes[parts], box_windows[parts], iou):
        members = parts[group]
        around = [*boxes[members, :2].min(axis=0), *boxes[members, 2:].max(axis=0)]
        kept_boxes = np.concatenate([kept_boxes, [around]])
        kept_scores = np.append(kept_scores, scores[members].max())
    order = np.argsort(-kept_scores, kind="stable")
    order = order[_suppress(kept_boxes[order], iou)]
    return kept_boxes[order], kept_scores[order]


def _joined(boxes, box_windows, iou):
    """Groups of parts of one object: lists of indices, at most one part a view.

    From the best part outwards: of every other view the part that agrees best with a
    member, which brings its own neighbours.
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
            same = _overlap_in_common(
                boxes[member], box_windows[member], boxes, box_windows
            )
            for other in np.argsort(-same, kind="stable"):
                view = tuple(box_windows[other])
                if same[other] <= iou:
                    break
                if free[other] and view not in seen:
                    free[other] = False
                    seen.add(view)
                    waiting.append(int(other))
        groups.append(group)
    return groups


def _overlap_in_common(box, window, boxes, box_windows):
    """IoU [n] of a box with others, each confined to what both windows see."""
    low = np.maximum(window[:2], box_windows[:, :2])
    high = np.minimum(window[2:], box_windows[:, 2:])
    return _iou(_confine(box[None], low, high), _confine(boxes, low, high))


def _confine(boxes, low, high):
    """Boxes [n, 4] cut to the areas from `low` to `high`, both [n, 2]."""
    corners = (np.maximum(boxes[:, :2], low), np.minimum(boxes[:, 2:], high))
    return np.concatenate(corners, axis=1)


def _suppress(boxes, iou):
    """Indices that greedy NMS keeps of boxes that come best first."""
    kept = []
    alive = np.ones(len(boxes), bool)
    for i in range(len(boxes)):
        if alive[i]:
            kept.append(i)
            alive &= _iou(boxes[i][None], boxes) <= iou
    return np.array(kept, int)


def _iou(a, b):
    """IoU [n] of boxes [n or 1, 4] row by row; inverted boxes have no area."""
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])
    both = np.prod(np.maximum(high - low, 0), axis=1)
    areas = [np.prod(np.maximum(x[:, 2:] - x[:, :2], 0), axis=1) for x in (a, b)]
    union = areas[0] + areas[1] - both
    return np.divide(both, union, out=np.zeros(len(both)), where=union > 0)
