"""The prediction of the gain by borrowing, and the measurements that it rests on."""

import math

import numpy as np
import pytest

from borrow_det.tools.inspect.expectation import Measured, expect


def measured(gains, errors, share=1.0, baseline=1.0):
    scale = share * baseline
    return [
        Measured("set", share, baseline, scale * gain, scale * error)
        for gain, error in zip(gains, errors, strict=True)
    ]


def test_sets_of_equal_precision_vary_by_their_variance_less_the_error():
    gains, error = [0.02, 0.1, -0.06, 0.14], 0.03
    between = np.var(gains, ddof=1) - error**2
    spread = math.sqrt(between + (between + error**2) / 4)
    found = expect(1.0, measured(gains, [error] * 4))
    assert found.gain == pytest.approx(0.05)
    # Student's quantile for two degrees of freedom.
    assert found.high - found.gain == pytest.approx(4.302653 * spread)
    assert found.gain - found.low == pytest.approx(4.302653 * spread)


def test_sets_that_agree_within_their_errors_are_weighted_by_precision():
    found = expect(1.0, measured([0.1, 0.12, 0.09], [0.05, 0.1, 0.1]))
    assert found.gain == pytest.approx((4 * 0.1 + 0.12 + 0.09) / 6)
    spread = 1 / math.sqrt(400 + 100 + 100)
    assert found.high - found.gain == pytest.approx(12.706205 * spread)


def test_gains_are_relative_and_for_each_lender():
    gains, errors = [0.02, 0.1, -0.06], [0.03, 0.05, 0.04]
    found = expect(0.3, measured(gains, errors, share=0.6, baseline=0.1))
    expected = expect(1.0, measured(gains, errors))
    np.testing.assert_allclose(found, 0.3 * np.array(expected))
    assert expect(0.0, measured(gains, errors)) == (0, 0, 0)


def test_intervals_contain_a_new_set_in_about_nine_cases_of_ten():
    rng = np.random.default_rng(0)
    errors = np.array([0.02, 0.04, 0.03, 0.05, 0.02, 0.03])
    inside = 0
    for _ in range(400):
        *gains, new = rng.normal(0.05, 0.05, 7)
        found = expect(1.0, measured(rng.normal(gains, errors), errors))
        inside += found.low <= new <= found.high
    # The method's intervals are known to be somewhat short for few sets.
    assert 0.87 <= inside / 400 <= 0.99
