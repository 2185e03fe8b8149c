"""What borrowing is expected to change on photographs, from sets that were measured.

The relative gains of the sets, for a share of 1 of small objects with a lender, are
combined by a random-effects model: DerSimonian and Laird, Controlled Clinical Trials
1986, for the variance between sets; Higgins, Thompson and Spiegelhalter, Journal of the
Royal Statistical Society A 2009, equation 12, for the prediction interval.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Measured(NamedTuple):
    """A comparison of borrowing with plain SSD and context on a set of photographs.

    Attributes:
      name: the set and its split.
      share: share of the small objects that have a lender in their image.
      baseline: AP_small of plain SSD with context.
      gain: AP_small of borrowing minus that.
      error: standard error of the gain, over seeds and images.
    """

    name: str
    share: float
    baseline: float
    gain: float
    error: float


# From results/photographs_*.json; docs/results.md has the command.
MEASURED: tuple[Measured, ...] = ()


class Expectation(NamedTuple):
    """Relative change of AP_small, and its 95 % prediction interval for a new set."""

    gain: float
    low: float
    high: float


def expect(share: float, measured: Sequence[Measured] = MEASURED) -> Expectation:
    """Predicts the gain of AP_small by borrowing, relative to plain SSD with context.

    Args:
      share: share of the small objects that have a lender in their image, 0 to 1.
      measured: comparisons, at least three.

    Returns:
      The prediction, which is proportional to `share`.
    """
    scale = np.array([one.baseline * one.share for one in measured])
    gains = np.array([one.gain for one in measured]) / scale
    variances = np.square(np.array([one.error for one in measured]) / scale)
    between = _variance_between(gains, variances)
    weights = 1 / (variances + between)
    mean = float(np.average(gains, weights=weights))
    spread = math.sqrt(between + 1 / weights.sum())
    reach = float(stats.t.ppf(0.975, len(measured) - 2)) * spread
    return Expectation(share * mean, share * (mean - reach), share * (mean + reach))


def _variance_between(gains: np.ndarray, variances: np.ndarray) -> float:
    weights = 1 / variances
    mean = np.average(gains, weights=weights)
    excess = (weights * np.square(gains - mean)).sum() - (len(gains) - 1)
    scale = weights.sum() - np.square(weights).sum() / weights.sum()
    return max(0.0, float(excess / scale))


def describe(share: float) -> str:
    """Returns what to expect for a share of small objects with a lender, in words."""
    gains = [one.gain / one.baseline for one in MEASURED]
    expected = expect(share)
    return (
        f"Where it was measured, on {len(MEASURED)} splits of photographs, borrowing "
        f"changed AP_small by {min(gains):+.0%} to {max(gains):+.0%} of its value with "
        f"context alone. With this share of lenders, expect {expected.gain:+.0%}; for "
        f"a new dataset the 95% prediction interval is {expected.low:+.0%} to "
        f"{expected.high:+.0%}."
    )
