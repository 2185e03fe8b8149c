"""The focal loss against its formula in float64, and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.ops import losses

ANCHORS, CLASSES = 30, 4


def numpy_focal(logits, target, alpha, gamma):
    """Eq. 5 of the paper, -alpha_t (1 - p_t)^gamma log(p_t), in float64."""
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    p_t = np.where(target, p, 1 - p)
    alpha_t = np.where(target, alpha, 1 - alpha)
    return -alpha_t * (1 - p_t) ** gamma * np.log(p_t)


def image(seed=0):
    """Logits, targets and ignored anchors of a random image."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (ANCHORS, CLASSES)).astype(np.float32)
    target = rng.integers(-8, CLASSES + 1, ANCHORS).clip(0).astype(np.int32)
    ignored = (rng.uniform(size=ANCHORS) < 0.2) & (target == 0)
    return logits, target, ignored


def total(logits, target, ignored, alpha=0.25, gamma=2.0):
    return losses.focal_classification_loss(
        logits, target, ignored, alpha=alpha, gamma=gamma
    )


def expected_total(logits, target, ignored, alpha, gamma):
    """The sum over anchors and classes that count, one by one."""
    value = 0.0
    for a in np.flatnonzero(~ignored):
        for c in range(CLASSES):
            value += numpy_focal(logits[a, c], target[a] == 1 + c, alpha, gamma)
    return value


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 0.0), (0.75, 0.5)])
def test_sum_equals_a_loop_over_anchors_and_classes(alpha, gamma):
    logits, target, ignored = image()
    assert ignored.any()
    assert (target > 0).any()
    got = total(logits, target, ignored, alpha, gamma)
    expected = expected_total(logits, target, ignored, alpha, gamma)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.75, 0.5)])
def test_gradient_equals_finite_differences(alpha, gamma):
    logits, target, ignored = image()
    got = jax.grad(total)(logits, target, ignored, alpha, gamma)
    x, step = logits.astype(np.float64), 1e-5
    for a, c in np.ndindex(logits.shape):
        change = np.zeros_like(x)
        change[a, c] = step
        above, below = (
            expected_total(x + sign * change, target, ignored, alpha, gamma)
            for sign in (1, -1)
        )
        slope = (above - below) / (2 * step)
        np.testing.assert_allclose(got[a, c], slope, rtol=1e-4, atol=1e-7)


def test_without_focus_it_is_half_of_the_cross_entropy():
    logits, target, _ = image()
    positive = target[:, None] == 1 + np.arange(CLASSES)
    got = losses.sigmoid_focal_loss(logits, positive, alpha=0.5, gamma=0.0)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    entropy = -np.where(positive, np.log(p), np.log1p(-p))
    np.testing.assert_allclose(got, entropy / 2, rtol=1e-4)


def test_an_easy_anchor_costs_a_hundredth_of_its_cross_entropy():
    """The example of the paper's section 3.2: p_t = 0.9 and gamma = 2."""
    logit = jnp.log(jnp.float32(9.0))
    easy = losses.sigmoid_focal_loss(logit, jnp.array(True), alpha=1.0, gamma=2.0)
    np.testing.assert_allclose(easy, -np.log(0.9) / 100, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_huge_logits_have_finite_losses_and_gradients(gamma):
    logits = jnp.array([-1e4, -200, -50, 0, 50, 200, 1e4], jnp.float32)
    for positive in (True, False):
        target = jnp.full(logits.shape, positive)

        def both(x, target=target):
            return losses.sigmoid_focal_loss(x, target, alpha=0.25, gamma=gamma)

        gradient = jax.grad(lambda x: jnp.sum(both(x)))(logits)
        assert np.isfinite(both(logits)).all()
        assert np.isfinite(gradient).all()
        wrong, right = (0, -1) if positive else (-1, 0)
        weight = 0.25 if positive else 0.75
        np.testing.assert_allclose(both(logits)[wrong], 1e4 * weight, rtol=1e-6)
        assert both(logits)[right] == gradient[right] == 0


def test_ignored_anchors_have_no_gradient_and_all_others_have_one():
    logits, target, ignored = image()
    gradient = np.asarray(jax.grad(total)(logits, target, ignored))
    np.testing.assert_array_equal(gradient[ignored], 0)
    assert (gradient[~ignored] != 0).all()
    # Only the logit of the class of a positive rises.
    rises = (gradient < 0)[~ignored]
    expected = target[~ignored, None] == 1 + np.arange(CLASSES)
    np.testing.assert_array_equal(rises, expected)


def test_half_precision_logits_give_float32():
    logits, target, ignored = image()
    got = total(jnp.asarray(logits, jnp.bfloat16), target, ignored)
    assert got.dtype == jnp.float32
