"""Attention of single detections: by source position, by level, by lender."""

from collections.abc import Mapping, Sequence
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
    center: tuple[float, float]  # (y, x), normalized to the image or the reference.
    weight: float  # Its share of the attention.
    detections: tuple[int, ...]  # Those whose boxes contain the center, best first.
    reference: int | None = None  # Index of its reference; None: the image itself.


class BorrowedReference(NamedTuple):
    """The attention of one detection to a reference.

    Attributes:
      heat: attention of each source position by source level, float [H, W].
      lenders: detections in the reference that are lenders; see `Borrowed`.
    """

    heat: dict[int, np.ndarray]
    lenders: tuple[int, ...]

    @property
    def share(self) -> float:
        """Attention to the reference."""
        return sum(self.shares.values())

    @property
    def shares(self) -> dict[int, float]:
        """Attention to each source level of the reference."""
        return _sums(self.heat)


class Borrowed(NamedTuple):
    """The attention of one detection.

    Attributes:
      level: level (from 0) of the descriptors that attend.
      descriptors: float32 [k, 2], centers (y, x) of these descriptors.
      heat: attention of each source position of the image by source level, float
        [H, W]. The sum over all levels, with those of references, is 1, or less if
        rows of P are zero.
      sources: the strongest source positions, strongest first.
      lenders: detections of the same class that are larger by
        evaluation.lender_scale.
      positions: share of the source positions inside the lenders' boxes, which is the
        attention precision of an even spread.
      attention_precision: attention inside the lenders' boxes; None if there is no
        lender or its box contains no position. Lenders in references count, here and
        in `positions`.
      references: the attention to each reference.
    """

    level: int
    descriptors: np.ndarray
    heat: dict[int, np.ndarray]
    sources: tuple[SourcePosition, ...]
    lenders: tuple[int, ...]
    positions: float
    attention_precision: float | None
    references: tuple[BorrowedReference, ...] = ()

    @property
    def num_positions(self) -> int:
        """Number of source positions."""
        return sum(heat.size for heat in self._heats())

    @property
    def num_lenders(self) -> int:
        """Number of lenders, with those in references."""
        return len(self.lenders) + sum(len(r.lenders) for r in self.references)

    @property
    def shares(self) -> dict[int, float]:
        """Attention to each source level of the image."""
        return _sums(self.heat)

    @property
    def share_references(self) -> float:
        """Attention to references."""
        return sum(reference.share for reference in self.references)

    @property
    def scale(self) -> float:
        """End of the heat's color scale.

        It is the attention of the strongest position, but at least a multiple of an
        even spread, so that nothing glows if nothing stands out.
        """
        peak = max(float(heat.max()) for heat in self._heats())
        return max(peak, min(1.0, _EVEN / self.num_positions))

    def sources_in(self, reference: int | None) -> list[tuple[int, SourcePosition]]:
        """Returns the listed positions of a reference or the image (None).

        They come with their numbers in the list, from 1, the strongest last.
        """
        numbered = list(enumerate(self.sources, start=1))
        return [pair for pair in reversed(numbered) if pair[1].reference == reference]

    def _heats(self) -> list[np.ndarray]:
        """Returns the heat of all levels, of the image and of its references."""
        parts = (self.heat, *(reference.heat for reference in self.references))
        return [heat for part in parts for heat in part.values()]


def _sums(heat: Mapping[int, np.ndarray]) -> dict[int, float]:
    return {level: float(values.sum()) for level, values in heat.items()}


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


class _SourceImage(NamedTuple):
    """An image whose positions a detection borrows from."""

    weights: np.ndarray  # float64 [T], attention to its positions.
    contained: np.ndarray  # bool [n, T], positions in the boxes of its detections.
    lenders: np.ndarray  # int, indices of those that are lenders.

    @property
    def lent(self) -> np.ndarray:
        """Marks the positions in boxes of lenders, bool [T]."""
        return self.contained[self.lenders].any(axis=0)


def explain(
    task: DetectionTask,
    P: np.ndarray,
    level: int,
    found: LevelDetections,
    k: int,
    count: int,
    references: Sequence[LevelDetections] = (),
) -> Borrowed:
    """Computes the attention of detection k of `found` at a level.

    Args:
      task: task of the run, which knows the positions of its levels.
      P: float32 [R, T], matching scores of the level in this image. With N references
        [R, (1 + N) T]: those of each reference follow those of the image.
      level: from 0; a level that borrows.
      found: detections of the image.
      k: index of the detection.
      count: number of strongest source positions to list.
      references: detections of each reference.
    """
    own = task.centers((level,))
    box = jnp.asarray(found.boxes[k])[None]
    rows = np.flatnonzero(borrowing.descriptors(box, jnp.asarray(own))[0])
    # The sum is 1, or less if rows of P are zero, which borrow nothing.
    shares = np.asarray(borrowing.as_shares(jnp.asarray(P[rows])))
    weights = shares.mean(axis=0, dtype=np.float64)
    levels = task.source_levels(level)
    centers, of_level = task.centers(levels), task.position_levels(levels)
    scale = task.config.evaluation.lender_scale
    sources = _source_images(found, k, references, weights, centers, scale)

    def heat(part: np.ndarray) -> dict[int, np.ndarray]:
        return {m: part[of_level == m].reshape(task.level_shapes[m]) for m in levels}

    def position(t: int) -> SourcePosition:
        i, t = divmod(t, len(centers))
        return SourcePosition(
            level=int(of_level[t]),
            center=(float(centers[t, 0]), float(centers[t, 1])),
            weight=float(sources[i].weights[t]),
            detections=tuple(np.flatnonzero(sources[i].contained[:, t]).tolist()),
            reference=i - 1 if i else None,
        )

    strongest = np.argsort(-weights, kind="stable")[:count]
    lent = np.concatenate([image.lent for image in sources])
    image, *others = sources
    return Borrowed(
        level=level,
        descriptors=own[rows],
        heat=heat(image.weights),
        sources=tuple(position(int(t)) for t in strongest if weights[t] > 0),
        lenders=tuple(image.lenders.tolist()),
        positions=float(lent.mean()),
        attention_precision=float(weights[lent].sum()) if lent.any() else None,
        references=tuple(
            BorrowedReference(heat(other.weights), tuple(other.lenders.tolist()))
            for other in others
        ),
    )


def _source_images(
    found: LevelDetections,
    k: int,
    references: Sequence[LevelDetections],
    weights: np.ndarray,
    centers: np.ndarray,
    scale: float,
) -> list[_SourceImage]:
    """Returns the image of detection k and its references, with their attention."""
    images = (found, *references)
    points = jnp.asarray(centers)
    return [
        _SourceImage(
            part,
            np.asarray(box_ops.contains(jnp.asarray(image.boxes), points)),
            _lenders(found, k, image, scale),
        )
        for image, part in zip(images, np.split(weights, len(images)), strict=True)
    ]


def _lenders(
    found: LevelDetections, k: int, others: LevelDetections, scale: float
) -> np.ndarray:
    """Returns the indices of the detections that are lenders of detection k."""

    def objects(boxes: np.ndarray, labels: np.ndarray) -> borrow_targets.Objects:
        valid = jnp.ones(len(labels), bool)
        return borrow_targets.Objects(jnp.asarray(boxes), jnp.asarray(labels), valid)

    borrower = objects(found.boxes[k : k + 1], found.labels[k : k + 1])
    lends = borrow_targets.lenders_in(
        borrower, objects(others.boxes, others.labels), scale
    )
    return np.flatnonzero(lends[0])
