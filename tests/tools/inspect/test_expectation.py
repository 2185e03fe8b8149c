"""The prediction of the gain by borrowing, and the measurements that it rests on."""

import json
import math

import numpy as np
import pytest
from scipy import integrate, stats

from borrow_det.tools.inspect import expectation
from borrow_det.tools.inspect.expectation import Measured, expect
from tests.conftest import ROOT


def measured(effects, errors):
    pairs = zip(effects, errors, strict=True)
    return [Measured("set", 0.5, effect, error) for effect, error in pairs]


def test_the_prediction_is_that_of_numerical_integration_over_mean_and_spread():
    effects, errors = [0.12, -0.05, 0.3], [0.08, 0.05, 0.2]

    def joint(mean, spread):
        prior = stats.halfnorm.pdf(spread, scale=0.25)
        scales = np.sqrt(np.square(errors) + spread**2)
        return prior * np.prod(stats.norm.pdf(effects, mean, scales))

    def below(x):
        def part(mean, spread):
            return joint(mean, spread) * stats.norm.cdf(x, mean, spread)

        return integrate.dblquad(part, 1e-6, 1.5, -1.5, 1.5, epsabs=1e-4)[0]

    total = integrate.dblquad(joint, 1e-6, 1.5, -1.5, 1.5, epsabs=1e-4)[0]
    found = expect(measured(effects, errors))
    for value, probability in zip(found, (0.5, 0.025, 0.975), strict=True):
        share = below(math.log1p(value)) / total
        assert share == pytest.approx(probability, abs=2e-3)


def test_one_set_that_is_known_exactly_leaves_the_spread_of_the_prior():
    found = expect(measured([0.2], [1e-4]))
    draws = np.random.default_rng(0).normal(size=(3, 200_000))
    spreads = np.abs(0.25 * draws[0])
    others = 0.2 - spreads * draws[1] + spreads * draws[2]
    expected = np.expm1(np.quantile(others, [0.5, 0.025, 0.975]))
    np.testing.assert_allclose(found, expected, rtol=0.02)


def test_many_sets_that_agree_predict_their_mean():
    found = expect(measured([0.1] * 40, [0.05] * 40))
    assert found.median == pytest.approx(math.expm1(0.1), abs=1e-3)
    assert -0.02 < found.low < found.high < 0.25


def test_the_sentence_has_the_range_the_prediction_and_its_interval():
    sets = [Measured("a", 0.4, 0.1, 0.1), Measured("b", 0.9, -0.2, 0.1)]
    found = expect(sets)
    sentence = expectation.describe(expectation.expect_at(0.5, sets), sets)
    assert "On the 2 sets of photographs" in sentence
    assert "by -18% to +11%" in sentence
    assert f"the prediction is {found.median:+.0%}" in sentence
    assert f"{found.low:+.0%} to {found.high:+.0%}." in sentence
    assert expectation.expect_at(0.4, sets) == found
    assert expectation.expect_at(0.39, sets) is None
    fewer = expectation.describe(expectation.expect_at(0.3, sets), sets)
    assert "at least 40% of their small objects had a lender" in fewer
    assert "no prediction for fewer" in fewer


def of_results(name):
    """The effect on a set and its error: the mean over splits by their precision."""
    records = json.loads((ROOT / f"results/photographs_{name}.json").read_text())
    base, full = (
        next(r["metrics"] for r in records if r["name"] == row)
        for row in ("ssd + context", "full")
    )
    effects, of_seeds, variances = [], [], []
    for prefix in ("", "test/"):
        if f"{prefix}AP_small" in full:
            own, other = (m[f"{prefix}AP_small"] for m in (full, base))
            effects.append(math.log(own["mean"] / other["mean"]))
            of_seeds.append(np.log(np.divide(own["values"], other["values"])))
            over_images = own["bootstrap"]
            # The bootstrap divides by the number of units, which may be two.
            few = over_images["units"] / (over_images["units"] - 1)
            variances.append(few * over_images["log_ratio_std"] ** 2)
    weights = 1 / np.array(variances)
    weights /= weights.sum()
    # Splits have different images and the same trained networks.
    over_images = np.square(weights) @ variances
    seeds = weights @ np.array(of_seeds)
    over_seeds = np.var(seeds, ddof=1) / len(seeds)
    return float(weights @ effects), math.sqrt(over_images + over_seeds)


def test_the_measurements_are_those_of_the_results():
    found = sorted(path.stem for path in (ROOT / "results").glob("photographs_*.json"))
    names = [f"photographs_{one.name}" for one in expectation.MEASURED]
    assert sorted(names) == found
    for one in expectation.MEASURED:
        found = (one.effect, one.error)
        np.testing.assert_allclose(found, of_results(one.name), atol=6e-4)
