"""Covered shares of small, medium and large objects, and their weighted mean."""

import math
from collections.abc import Sequence

import numpy as np

# Square roots of COCO's areas, in pixels of the network's input.
RANGES = {"small": (0, 32), "medium": (32, 96), "large": (96, math.inf)}
# Weights of the shares of small, medium and large objects. Small objects count as much
# as all others together, since anchors miss them first, and borrowing is for them.
WEIGHTS = (2.0, 1.0, 1.0)


def shares_within(covered: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Computes the covered share of the objects of each size range.

    Args:
      covered: bool [N], the objects that anchors cover.
      sizes: [N], square roots of the objects' areas in pixels of the input.

    Returns:
      float64 [3], in [0, 1], in the order of RANGES; nan for a range without objects.
    """
    index = np.digitize(sizes, [low for low, _ in RANGES.values()][1:])
    counts = np.bincount(index, minlength=len(RANGES))
    hits = np.bincount(index, covered, minlength=len(RANGES))
    return np.divide(hits, counts, out=np.full(len(RANGES), np.nan), where=counts > 0)


def weighted(shares: np.ndarray, weights: Sequence[float]) -> float:
    """Computes the weighted mean of the shares of size ranges that have objects.

    Args:
      shares: [3], nan for a range without objects, as `shares_within` returns.
      weights: weights of the ranges, each above 0.
    """
    there = ~np.isnan(shares)
    return float(np.average(shares[there], weights=np.asarray(weights)[there]))
