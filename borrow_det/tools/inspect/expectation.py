"""Prediction of the gain by borrowing on photographs, from sets that were measured.

The effect on a set is the logarithm of the ratio of AP_small with borrowing to AP_small
with context alone. Sets differ: a Bayesian random-effects model estimates the mean and
the standard deviation of their effects, and predicts that of a further set (Röver,
Journal of Statistical Software 2020, section 2). The mean has a flat prior. With so few
sets the prior of the standard deviation matters: half-normal, as Röver et al. recommend
(Research Synthesis Methods 2021), with a scale of 0.25, so that a set seldom lies more
than a factor of exp(2 * 0.25) = 1.6 from the mean.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

_SCALE = 0.25  # Scale of the half-normal prior.


class Measured(NamedTuple):
    """A comparison of borrowing with context alone on a set of photographs.

    Attributes:
      name: name of the set.
      share: share of its small objects that have a lender in their image.
      effect: log ratio of AP_small, the mean over splits, weighted by precision.
      error: standard error of the effect over seeds and images, above 0.
    """

    name: str
    share: float
    effect: float
    error: float


# From results/photographs_*.json; docs/results.md has the commands. Shares are those
# that inspect reports for the training splits.
MEASURED = (
    Measured("aquarium", share=0.7078, effect=0.0707, error=0.0672),
    Measured("traffic_vehicles", share=0.9153, effect=0.0258, error=0.0434),
    Measured("atl_roads", share=0.9531, effect=0.0747, error=0.0515),
)


class Expectation(NamedTuple):
    """Relative change of AP_small, such as 0.1 for 10 %: median, and 95 % interval."""

    median: float
    low: float
    high: float


def expect(measured: Sequence[Measured]) -> Expectation:
    """Predicts the relative change of AP_small by borrowing on a further set.

    Args:
      measured: comparisons on different sets, at least one.

    Returns:
      The median and the central 95 % of the posterior predictive distribution.
    """
    effects = np.array([one.effect for one in measured])
    variances = np.square([one.error for one in measured])
    spreads = np.linspace(0, 6 * _SCALE, 1201)
    weights = 1 / (variances + np.square(spreads)[:, None])
    means = (weights * effects).sum(axis=1) / weights.sum(axis=1)
    deviations = np.square(effects - means[:, None])
    log_density = (
        0.5 * np.log(weights).sum(axis=1)
        - 0.5 * np.log(weights.sum(axis=1))
        - 0.5 * (weights * deviations).sum(axis=1)
        - 0.5 * np.square(spreads / _SCALE)
    )
    density = np.exp(log_density - log_density.max())
    density /= density.sum()
    scales = np.sqrt(np.square(spreads) + 1 / weights.sum(axis=1))

    def quantile(probability: float) -> float:
        def excess(x: float) -> float:
            return float(density @ stats.norm.cdf(x, means, scales)) - probability

        return float(optimize.brentq(excess, -20, 20))

    return Expectation(*(math.expm1(quantile(p)) for p in (0.5, 0.025, 0.975)))


def expect_at(share: float, measured: Sequence[Measured]) -> Expectation | None:
    """Returns the prediction for a share of small objects with a lender.

    None for a smaller share than every measured one.
    """
    return expect(measured) if share >= _least_share(measured) else None


def _least_share(measured: Sequence[Measured]) -> float:
    return min(one.share for one in measured)


def describe(found: Expectation | None, measured: Sequence[Measured]) -> str:
    """Returns a prediction of `expect_at` in words."""
    changes = [math.expm1(one.effect) for one in measured]
    sentence = (
        f"On the {len(measured)} sets of photographs where it was measured, borrowing "
        f"changed AP_small by {min(changes):+.0%} to {max(changes):+.0%} of its value "
        "with context alone"
    )
    if found is None:
        return (
            f"{sentence}, but at least {_least_share(measured):.0%} of their small "
            "objects had a lender: there is no prediction for fewer."
        )
    return (
        f"{sentence}. For a further set the prediction is {found.median:+.0%}, with a "
        f"95% interval of {found.low:+.0%} to {found.high:+.0%}."
    )
