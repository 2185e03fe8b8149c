"""Attention of single detections: by source position, by level, by lender."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from borrow_det.evaluation import borrowing
from borrow_det.inference.detector import Attended
from borrow_det.ops import borrow_targets
from borrow_det.ops import boxes as box_ops
from borrow_det.tasks.detection import DetectionTask

_EVEN = 5  # A color scale spans at least this multiple of an even spread.


class LevelDetections(NamedTuple):
    """The n detections of an image that count, best first, with their levels."""

    boxes: np.ndarray  # float32 [n, 4], normalized to the image.
    scores: np.ndarray  # float32 [n]
    labels: np.ndarray  # int32 [n]
    levels: np.ndarray  # int32 [n], level (from 0) of each detection's anchor.

    def pixels(self, k: int, size: tuple[int, int]) -> list[float]:
        """Returns COCO's [x, y, width, height] of detection k in an image of (h, w)."""
        y0, x0, y1, x1 = self.boxes[k].astype(float) * np.tile(size, 2)
        return [x0, y0, x1 - x0, y1 - y0]


class SourcePosition(NamedTuple):
    """A position that a detection borrowed from."""

    level: int  # From 0.
    center: tuple[float, float]  # (y, x), normalized to the image.
    weight: float  # Its share of the attention.
    detections: tuple[int, ...]  # Those whose boxes contain the center, best first.


class Borrowed(NamedTuple):
    """The attention of one detection.

    Attributes:
      level: level (from 0) of the descriptors that attend.
      descriptors: float32 [k, 2], centers (y, x) of these descriptors.
      heat: attention of each source position by source level, float [H, W]. The sum
        over all levels is 1, or less if rows of P are zero.
      sources: the strongest source positions, strongest first.
      lenders: detections of the same class that are larger by
        evaluation.lender_scale.
      positions: share of the source positions inside the lenders' boxes, which is the
        attention precision of an even spread.
      attention_precision: attention inside the lenders' boxes; None if there is no
        lender or its box contains no position.
    """

    level: int
    descriptors: np.ndarray
    heat: dict[int, np.ndarray]
    sources: tuple[SourcePosition, ...]
    lenders: tuple[int, ...]
    positions: float
    attention_precision: float | None

    @property
    def num_positions(self) -> int:
        """Number of source positions."""
        return sum(heat.size for heat in self.heat.values())

    @property
    def shares(self) -> dict[int, float]:
        """Attention to each source level."""
        return {level: float(heat.sum()) for level, heat in self.heat.items()}

    @property
    def scale(self) -> float:
        """End of the heat's color scale.

        It is the attention of the strongest position, but at least a multiple of an
        even spread, so that nothing glows if nothing stands out.
        """
        peak = max(float(heat.max()) for heat in self.heat.values())
        return max(peak, min(1.0, _EVEN / self.num_positions))


def detections(attended: Attended, row: int, score: float) -> LevelDetections:
    """Returns the detections of one image of a batch with at least this score."""
    found = attended.detections
    shown = np.asarray(found.mask[row] & (found.scores[row] >= score))
    return LevelDetections(
        np.asarray(found.boxes[row])[shown],
        np.asarray(found.scores[row])[shown],
        np.asarray(found.labels[row])[shown],
        attended.levels[row][shown],
    )


def is_small(boxes: np.ndarray, size: Sequence[int], side: float) -> np.ndarray:
    """Marks boxes of at most side² pixels in an image of (h, w), bool [n].

    Args:
      boxes: float [n, 4], normalized to the image.
      size: (height, width) of the image in pixels.
      side: side in pixels of the largest square that is small.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]) * np.asarray(size)
    return sides.prod(axis=1) <= side**2


def explain(
    task: DetectionTask,
    P: np.ndarray,
    level: int,
    found: LevelDetections,
    k: int,
    count: int,
) -> Borrowed:
    """Computes the attention of detection k of `found` at a level.

    Args:
      task: task of the run, which knows the positions of its levels.
      P: float32 [R, T], matching scores of the level in this image.
      level: from 0; a level that borrows.
      found: detections of the image.
      k: index of the detection.
      count: number of strongest source positions to list.
    """
    boxes = jnp.asarray(found.boxes)
    own = task.centers((level,))
    rows = np.flatnonzero(borrowing.descriptors(boxes[k][None], jnp.asarray(own))[0])
    # The sum is 1, or less if rows of P are zero, which borrow nothing.
    shares = np.asarray(borrowing.as_shares(jnp.asarray(P[rows])))
    weights = shares.mean(axis=0, dtype=np.float64)
    levels = task.source_levels(level)
    centers = task.centers(levels)
    valid = jnp.ones(len(boxes), bool)
    is_lender = borrow_targets.lenders(
        boxes,
        jnp.asarray(found.labels),
        valid,
        task.config.evaluation.lender_scale,
    )
    lenders = np.flatnonzero(is_lender[k])
    contained = np.asarray(box_ops.contains(boxes, jnp.asarray(centers)))
    in_lenders = contained[lenders].any(axis=0)
    of_level = task.position_levels(levels)
    strongest = np.argsort(-weights, kind="stable")[:count]
    return Borrowed(
        level=level,
        descriptors=own[rows],
        heat={m: weights[of_level == m].reshape(task.level_shapes[m]) for m in levels},
        sources=tuple(
            SourcePosition(
                level=int(of_level[t]),
                center=(float(centers[t, 0]), float(centers[t, 1])),
                weight=float(weights[t]),
                detections=tuple(np.flatnonzero(contained[:, t]).tolist()),
            )
            for t in strongest
            if weights[t] > 0
        ),
        lenders=tuple(lenders.tolist()),
        positions=float(in_lenders.mean()),
        attention_precision=(
            float(weights[in_lenders].sum()) if in_lenders.any() else None
        ),
    )
