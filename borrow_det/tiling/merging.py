"""Merging of the detections in several views of an image into one list.

Boxes and windows are `[y_min, x_min, y_max, x_max]` in pixels of the image. Everything
runs on the host, on a few hundred boxes per image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from borrow_det.ops import boxes as box_ops

# A box counts as cut by a tile's border if it ends within this fraction of the tile's
# side from it: networks do not hit a border to the pixel.
_BORDER = 0.02
# Rules for nested boxes, see `merge`.
_INSIDE = 0.8
_ALONG = 0.5  # An object in front of a larger one is not as high.
_ALIKE = 0.35
_SECOND = 0.5  # Unlikely boxes are found around every object.


class _Overlaps(NamedTuple):
    """IoU of all pairs of n boxes, float [n, n]."""

    entire: np.ndarray
    shared: np.ndarray  # Both are clipped to the area that their views share.

    def of(self, indices: np.ndarray) -> "_Overlaps":
        """Returns the overlaps of some of the boxes with one another."""
        chosen = np.ix_(indices, indices)
        return _Overlaps(self.entire[chosen], self.shared[chosen])


class ViewDetections(NamedTuple):
    """The n detections of one view of an image."""

    boxes: np.ndarray  # float [n, 4], pixels.
    scores: np.ndarray  # float [n]
    labels: np.ndarray  # int [n]


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
    views share. Views of different scales may differ by more, so a box of which 0.8 is
    inside one of another view shows the same object, too,
      - if a border cuts it, and the sides of both along that border, within the view
        of the part, have an IoU of at least 0.5;
      - if no border cuts either, their IoU is at least 0.35, and neither view has a
        second box for the other object, with at least half of the lower score: a view
        that shows both has two objects.
    Other boxes inside each other are two objects. By these rules, class by class:
      1. Boxes that no inner border cuts go through greedy NMS, best first.
      2. A part of a box that was kept in 1 is dropped. If its score is higher, the
         kept box, which shows the complete object, takes the score.
      3. Parts of objects that no view shows completely are joined across borders into
         the box around them, with the best of their scores. Parts of such a box are
         dropped as in 2.
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
    cut = _cut_sides(boxes, view_windows[view], size)
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


def _cut_sides(
    boxes: np.ndarray, box_windows: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Marks sides at a border of the box's window inside the image, bool [n, 4]."""
    sides = np.tile(box_windows[:, 2:] - box_windows[:, :2], 2)
    inner = box_windows != np.array([0, 0, *size])
    near = np.abs(boxes - box_windows) <= np.maximum(1, _BORDER * sides)
    return inner & near


def _merge_class(
    boxes: np.ndarray,
    scores: np.ndarray,
    box_windows: np.ndarray,
    cut: np.ndarray,
    iou: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Applies steps 1 to 4 of `merge` to the boxes of one class, best first."""
    uncut = np.flatnonzero(~cut.any(axis=1))
    overlaps = _overlaps(boxes, box_windows)
    same = overlaps.entire > iou
    same |= _nested_duplicates(boxes, overlaps, scores, box_windows, cut, iou)
    uncut = uncut[_suppress(same[np.ix_(uncut, uncut)])]
    kept_boxes, kept_scores = boxes[uncut].copy(), scores[uncut].copy()
    unmatched = []
    for part in np.flatnonzero(cut.any(axis=1)):
        own = box_windows[part]
        overlap = overlaps.shared[part, uncut]
        same = overlap > iou
        if not same.any():
            same = _contains_part(kept_boxes, boxes[part], own, cut[part])
            same &= np.any(box_windows[uncut] != own, axis=1)
        if same.any():
            owner = np.argmax(np.where(same, overlap, -1))
            kept_scores[owner] = max(kept_scores[owner], scores[part])
        else:
            unmatched.append(part)
    parts = np.array(unmatched, int)
    groups = _joined(overlaps.of(parts).shared, box_windows[parts], iou)
    joined = _join(boxes[parts], scores[parts], box_windows[parts], cut[parts], groups)
    kept_boxes = np.concatenate([kept_boxes, joined[0]])
    kept_scores = np.concatenate([kept_scores, joined[1]])
    order = np.argsort(-kept_scores, kind="stable")
    ordered = kept_boxes[order]
    order = order[_suppress(_iou(ordered) > iou)]
    return kept_boxes[order], kept_scores[order]


def _join(
    boxes: np.ndarray,
    scores: np.ndarray,
    box_windows: np.ndarray,
    cut: np.ndarray,
    groups: Sequence[Sequence[int]],
) -> tuple[np.ndarray, np.ndarray]:
    """Applies step 3 of `merge`: returns the boxes around parts, and their scores."""
    around = np.array(
        [[*boxes[g, :2].min(axis=0), *boxes[g, 2:].max(axis=0)] for g in groups]
    ).reshape(-1, 4)
    best = np.array([scores[g].max() for g in groups])
    views = [{tuple(box_windows[i]) for i in group} for group in groups]
    sizes = np.prod(around[:, 2:] - around[:, :2], axis=1)
    kept = []
    for i in np.argsort(sizes, kind="stable"):  # A part before what it is a part of.
        owner = sizes > sizes[i]
        owner &= [views[i].isdisjoint(others) for others in views]
        for member in groups[i]:
            window = box_windows[member]
            owner &= _contains_part(around, boxes[member], window, cut[member])
        if owner.any():
            best[owner] = np.maximum(best[owner], best[i])
        else:
            kept.append(i)
    kept = sorted(kept)  # In the order of the groups, for ties.
    return around[kept], best[kept]


def _overlaps(boxes: np.ndarray, box_windows: np.ndarray) -> _Overlaps:
    """Returns the overlaps of all pairs of boxes."""
    entire = _iou(boxes)
    # Few pairs overlap, and the others do not overlap in any area.
    pairs = np.nonzero(entire)
    shared = np.zeros_like(entire)
    ours, theirs = (boxes[i] for i in pairs)
    our_window, their_window = (box_windows[i] for i in pairs)
    low = np.maximum(our_window[:, :2], their_window[:, :2])
    high = np.minimum(our_window[:, 2:], their_window[:, 2:])
    shared[pairs] = _iou_of_pairs(_clip(ours, low, high), _clip(theirs, low, high))
    return _Overlaps(entire, shared)


def _iou(boxes: np.ndarray) -> np.ndarray:
    """Returns the IoU of all pairs of boxes, float [n, n]."""
    y_min, x_min, y_max, x_max = boxes.T
    meet = y_min[:, None] < y_max
    meet &= meet.T
    meet &= (x_min[:, None] < x_max) & (x_min < x_max[:, None])
    pairs = np.nonzero(meet)
    overlaps = np.zeros(meet.shape)
    overlaps[pairs] = _iou_of_pairs(*(boxes[i] for i in pairs))
    return overlaps


def _iou_of_pairs(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the IoU of each box with the other at its place, float [n]."""
    return box_ops.iou(boxes[:, None], others[:, None])[:, 0, 0]


def _nested_duplicates(
    boxes: np.ndarray,
    overlaps: _Overlaps,
    scores: np.ndarray,
    box_windows: np.ndarray,
    cut: np.ndarray,
    iou: float,
) -> np.ndarray:
    """Marks pairs of complete boxes of an object, one inside the other, bool [n, n].

    Pairs with a larger IoU than `iou`, which are of one object anyway, are not marked.
    """
    areas = box_ops.area(boxes)
    alike = (overlaps.entire >= _ALIKE) & (overlaps.entire <= iou)
    complete = ~np.any(cut, axis=1, keepdims=True)
    marked = np.zeros_like(alike)
    pairs = one, other = np.nonzero(alike & complete & complete.T)
    common = box_ops.intersection(boxes[one][:, None], boxes[other][:, None])[:, 0, 0]
    marked[pairs] = common >= _INSIDE * np.minimum(areas[one], areas[other])
    marked[pairs] &= np.any(box_windows[one] != box_windows[other], axis=1)
    for one, other in np.argwhere(marked):
        least = _SECOND * min(scores[one], scores[other])
        seconds = np.all(box_windows == box_windows[one], axis=1) & (scores >= least)
        seconds[one] = False
        # The view of the one shows the other, too.
        if np.any(overlaps.shared[other, seconds] > iou):
            marked[one, other] = marked[other, one] = False
    return marked


def _contains_part(
    boxes: np.ndarray, part: np.ndarray, window: np.ndarray, cut: np.ndarray
) -> np.ndarray:
    """Marks the boxes that show the object of a part, bool [n]; see `merge`.

    Args:
      boxes: float [n, 4].
      part: float [4], a box that borders of its view cut.
      window: float [4], the view.
      cut: bool [4], the sides of the part that are cut.
    """
    shared = box_ops.intersection(boxes, part[None])[:, 0]
    inside = shared >= _INSIDE * box_ops.area(part)
    low, high = np.maximum(boxes[:, :2], part[:2]), np.minimum(boxes[:, 2:], part[2:])
    visible = _clip(boxes, window[:2], window[2:])
    low_of_both = np.minimum(visible[:, :2], part[:2])
    both = np.maximum(visible[:, 2:], part[2:]) - low_of_both
    alike = high - low >= _ALONG * both  # In height, in width.
    # Heights along the left and the right border, widths along the others.
    return inside & np.any(alike[:, ::-1] & (cut[:2] | cut[2:]), axis=1)


def _joined(shared: np.ndarray, box_windows: np.ndarray, iou: float) -> list[list[int]]:
    """Groups the parts of one object: lists of indices, at most one part per view.

    A group grows from its best part: every other view adds the part that overlaps a
    member most, and that part adds its own neighbors.

    Args:
      shared: see `_Overlaps`.
      box_windows: float [n, 4], the view of each part.
      iou: smallest overlap of neighbors.
    """
    views = [tuple(window) for window in box_windows]
    free = np.ones(len(views), bool)
    groups = []
    for seed in range(len(views)):
        if not free[seed]:
            continue
        group = []
        waiting = [seed]
        free[seed] = False
        seen = {views[seed]}
        while waiting:
            member = waiting.pop()
            group.append(member)
            neighbors = np.flatnonzero(shared[member] > iou)
            order = np.argsort(-shared[member, neighbors], kind="stable")
            for other in neighbors[order]:
                if free[other] and views[other] not in seen:
                    free[other] = False
                    seen.add(views[other])
                    waiting.append(int(other))
        groups.append(group)
    return groups


def _clip(boxes: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Clips boxes [n, 4] to the areas from `low` to `high`, both [n, 2]."""
    corners = (np.maximum(boxes[:, :2], low), np.minimum(boxes[:, 2:], high))
    return np.concatenate(corners, axis=1)


def _suppress(same: np.ndarray) -> np.ndarray:
    """Returns the indices of the boxes that greedy NMS keeps.

    Args:
      same: bool [n, n], true for boxes of the same object; boxes are sorted, best
        first.
    """
    kept = []
    alive = np.ones(len(same), bool)
    for i in range(len(same)):
        if alive[i]:
            kept.append(i)
            alive &= ~same[i]
    return np.array(kept, int)
