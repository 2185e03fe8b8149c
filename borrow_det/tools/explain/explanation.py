"""What a detection borrowed: from which positions, levels and objects, how much."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from borrow_det.evaluation import borrowing
from borrow_det.inference.detector import Attended
from borrow_det.ops import borrow_targets
from borrow_det.ops import boxes as box_ops
from borrow_det.tasks.detection import DetectionTask

_EVEN = 5  # A colour scale spans at least so many times an even spread.


class Found(NamedTuple):
    """The n detections of an image that count, by falling score."""

    boxes: np.ndarray  # float32 [n, 4], normalised to the image.
    scores: np.ndarray  # float32 [n]
    labels: np.ndarray  # int32 [n]
    levels: np.ndarray  # int32 [n], from 0: that of each one's anchor.

    def pixels(self, k: int, size: tuple[int, int]) -> list[float]:
        """COCO's [x, y, width, height] of detection k in an image of (h, w)."""
        y0, x0, y1, x1 = self.boxes[k].astype(float) * np.tile(size, 2)
        return [x0, y0, x1 - x0, y1 - y0]


class SourcePosition(NamedTuple):
    """A position that was borrowed from."""

    level: int  # From 0.
    center: tuple[float, float]  # (y, x), normalised to the image.
    weight: float  # Its share of the attention.
    detections: tuple[int, ...]  # Those whose boxes hold the centre, best first.


class Borrowed(NamedTuple):
    """What one detection borrowed.

    Attributes:
      level: the level (from 0) whose descriptors are looked at.
      descriptors: float32 [k, 2], the centres (y, x) of these descriptors.
      heat: by source level, its share of the attention, position by position: float
        [H, W]; all levels' sum is 1, less where rows of P are zero.
      sources: the strongest positions, falling.
      lenders: the detections of its class that are larger by evaluation.lender_scale.
      positions: the share of the source positions that lie in the lenders' boxes:
        the precision of attention that is spread evenly.
      precision: the share of the attention inside of the lenders' boxes; None where
        these hold no position, or there is none.
    """

    level: int
    descriptors: np.ndarray
    heat: dict[int, np.ndarray]
    sources: tuple[SourcePosition, ...]
    lenders: tuple[int, ...]
    positions: float
    precision: float | None

    @property
    def count(self) -> int:
        """How many positions there are to borrow from."""
        return sum(heat.size for heat in self.heat.values())

    @property
    def shares(self) -> dict[int, float]:
        """By source level, its share of the attention."""
        return {level: float(heat.sum()) for level, heat in self.heat.items()}

    @property
    def scale(self) -> float:
        """Where a colour scale of the heat should end.

        At the strongest position's share; at some times that of an even spread where
        there is hardly more, so that nothing glows where nothing stands out.
        """
        peak = max(float(heat.max()) for heat in self.heat.values())
        return max(peak, min(1.0, _EVEN / self.count))


def detections(attended: Attended, row: int, score: float) -> Found:
    """The detections of one image of a batch that score `score` or more."""
    found = attended.detections
    shown = found.mask[row] & (found.scores[row] >= score)
    return Found(
        found.boxes[row][shown],
        found.scores[row][shown],
        found.labels[row][shown],
        attended.levels[row][shown],
    )


def is_small(boxes: np.ndarray, size: Sequence[int], side: float) -> np.ndarray:
    """Which boxes [n, 4] have an area of at most side² pixels in an image of (h, w)."""
    sides = (boxes[:, 2:] - boxes[:, :2]) * np.asarray(size)
    return sides.prod(axis=1) <= side**2


def explain(
    task: DetectionTask, P: np.ndarray, level: int, found: Found, k: int, count: int
) -> Borrowed:
    """What detection k of `found` borrowed at a level.

    Args:
      task: where positions stand.
      P: float32 [R, T], the level's matching scores of this image.
      level: from 0; one that borrows.
      found: the image's detections.
      k: the detection.
      count: how many of the strongest sources to name.
    """
    own = task.centers((level,))
    rows = np.flatnonzero(borrowing.descriptors(found.boxes[k][None], own)[0])
    # Of sum 1, or less where rows of P are zero, which borrow nothing.
    shares = np.asarray(borrowing.as_shares(P[rows]))
    weights = np.mean(shares, axis=0, dtype=np.float64)
    levels = task.source_levels(level)
    centers = task.centers(levels)
    scale = task.config.evaluation.lender_scale
    valid = np.ones(len(found.labels), bool)
    lends = np.flatnonzero(
        borrow_targets.lenders(found.boxes, found.labels, valid, scale)[k]
    )
    held = np.asarray(box_ops.contains(found.boxes, centers))
    strongest = np.argsort(-weights, kind="stable")[:count]
    of_level = task.position_levels(levels)
    sources = tuple(
        SourcePosition(
            int(of_level[t]),
            tuple(centers[t].tolist()),
            float(weights[t]),
            tuple(np.flatnonzero(held[:, t]).tolist()),
        )
        for t in strongest
        if weights[t] > 0
    )
    lent = held[lends].any(axis=0)
    precision = float(weights[lent].sum()) if lent.any() else None
    heat = {m: weights[of_level == m].reshape(task.level_shapes[m]) for m in levels}
    return Borrowed(
        level,
        own[rows],
        heat,
        sources,
        tuple(lends.tolist()),
        float(lent.mean()),
        precision,
    )
