"""Precision, recall and F1 as functions of the minimum score, and points on them.

A point of a curve is a minimum score: the detections that reach it are kept. Precision
is the share of them that are true positives, recall the share of the objects that are
found, and F1 = 2 precision recall / (precision + recall), by the pairs of pairing.py at
one IoU threshold. AP50 averages the precision of the same curve over the recall.
"""

import re
from typing import Any, NamedTuple

import numpy as np

from borrow_det.errors import InputError

# The most points of a stored curve.
STORED_POINTS = 200
BEST_F1 = "best_f1"
_WANTED = re.compile(r"(precision|recall)_(0\.\d*[1-9]|1)")


class Curve(NamedTuple):
    """Precision, recall and F1 at each distinct score, by falling score.

    Attributes:
      objects: number of objects to find.
      score: float [N], minimum scores.
      precision: float [N], in [0, 1].
      recall: float [N], in [0, 1].
      f1: float [N], in [0, 1].
    """

    objects: int
    score: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray

    def point(self, index: int) -> dict[str, float]:
        """Returns one point, for JSON."""
        names = ("score", "precision", "recall", "f1")
        return {name: float(getattr(self, name)[index]) for name in names}

    def as_json(self) -> dict[str, Any]:
        """Returns at most STORED_POINTS points, among them the one of the best F1.

        They are about evenly spaced, half of them in recall and half in score.
        """
        kept = _kept(self)
        lists = {
            name: np.round(getattr(self, name)[kept], 6).tolist()
            for name in ("precision", "recall", "f1")
        }
        return {
            "objects": self.objects,
            "score": self.score[kept].tolist(),
            **lists,
        }


def curve(scores: np.ndarray, hits: np.ndarray, objects: int) -> Curve:
    """Computes the curve of detections.

    Args:
      scores: float [N], falling; detections that are ignored are left out.
      hits: bool [N], true positives.
      objects: number of objects to find.

    Returns:
      The curve; it has no points without detections or without objects.
    """
    if not objects:
        scores, hits = scores[:0], hits[:0]
    # Equal scores are kept or dropped together.
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)[: len(scores)])
    found = np.cumsum(hits)[last]
    kept = last + 1
    return Curve(
        objects=objects,
        score=scores[last],
        precision=found / kept,
        recall=found / max(objects, 1),
        f1=2 * found / (kept + objects),
    )


def operating_point(of: Curve, name: str) -> dict[str, float] | None:
    """Finds a point of a curve by its name.

    Args:
      of: the curve.
      name: `best_f1`, the highest F1; `precision_P`, such as precision_0.9: the
        highest recall with a precision of at least P; or `recall_R`: the highest
        precision with a recall of at least R. The highest score of equal points.

    Returns:
      `score`, `precision`, `recall` and `f1`; None if no point reaches the value, or
      the curve has none.
    """
    if not len(of.score):
        return None
    if name == BEST_F1:
        return of.point(int(np.argmax(of.f1)))
    kind, least = wanted(name)
    other = of.recall if kind == "precision" else of.precision
    # Without the allowance, 0.9 of 10 objects would depend on rounding.
    reached = getattr(of, kind) >= least - 1e-9
    if not reached.any():
        return None
    return of.point(int(np.argmax(np.where(reached, other, -1.0))))


def wanted(name: str) -> tuple[str, float]:
    """Returns ("precision" or "recall", the least value) of `precision_0.9`.

    Raises:
      InputError: it is not the name of such a point.
    """
    match = _WANTED.fullmatch(name)
    if not match:
        raise InputError(
            f"{name!r} is not the name of an operating point: use {BEST_F1}, or a "
            "precision or recall above 0, such as precision_0.9 or recall_0.9"
        )
    return match[1], float(match[2])


def check_name(name: str) -> None:
    """Refuses what is not the name of an operating point.

    Raises:
      InputError: see `wanted`.
    """
    if name != BEST_F1:
        wanted(name)


def _kept(of: Curve) -> np.ndarray:
    """Returns the indices of the points to store, rising."""
    count = len(of.score)
    if count <= STORED_POINTS:
        return np.arange(count)
    half = (STORED_POINTS - 2) // 2
    recalls = np.linspace(0, of.recall[-1], half)
    scores = np.linspace(of.score[0], of.score[-1], half)
    indices = (
        *np.searchsorted(of.recall, recalls).tolist(),
        *np.searchsorted(-of.score, -scores).tolist(),
        int(np.argmax(of.f1)),
    )
    return np.unique(np.minimum((*indices, count - 1), count - 1))
