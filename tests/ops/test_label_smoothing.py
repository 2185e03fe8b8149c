"""The smoothed cross entropy against its definition."""

import jax
import numpy as np
import pytest

from borrow_det.ops.label_smoothing import smoothed_cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_it_is_the_cross_entropy_to_a_mixed_target(smoothing):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (5, 7)).astype(np.float32)
    label = np.array([0, 6, 3, 3, 1], np.int32)
    target = np.full((5, 7), smoothing / 7)
    target[np.arange(5), label] += 1 - smoothing
    log_p = logits - np.log(np.exp(logits.astype(float)).sum(1, keepdims=True))
    found = smoothed_cross_entropy(logits, label, smoothing)
    np.testing.assert_allclose(found, -(target * log_p).sum(axis=1), rtol=1e-5)


def test_it_is_least_where_the_prediction_is_the_mixed_target():
    target = np.array([0.9 + 0.1 / 4, *[0.1 / 4] * 3], np.float32)
    gradient = jax.grad(smoothed_cross_entropy)(np.log(target), np.int32(0), 0.1)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
