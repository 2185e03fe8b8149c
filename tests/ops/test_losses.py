"""Losses against NumPy written from SSD's and DESIGN.md's formulas, term by term."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.ops import losses

ANCHORS, CLASSES = 40, 5

cross_entropy = jax.jit(losses.softmax_cross_entropy)
mine = jax.jit(losses.mine_hard_negatives)


def numpy_cross_entropy(logits, target):
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return -log_p[np.arange(len(target)), target]


def numpy_mining(loss, negative, count):
    """The first `count` of the candidates, by falling loss, then by index."""
    ranked = sorted(np.flatnonzero(negative), key=lambda i: (-loss[i], i))
    return np.isin(np.arange(len(loss)), ranked[: int(count)])


def numpy_smooth_l1(x):
    return sum(0.5 * v * v if abs(v) < 1 else abs(v) - 0.5 for v in np.ravel(x))


@functools.partial(jax.jit, static_argnames=("ratio", "least"))
def classify(logits, target, positive, ignored, ratio=3.0, least=3):
    return losses.classification_loss(
        logits,
        target,
        positive,
        ignored,
        negatives_per_positive=ratio,
        min_negatives=least,
    )


def image(seed, positives):
    """Logits, targets, positives and ignored anchors of a random image."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (ANCHORS, CLASSES)).astype(np.float32)
    order = rng.permutation(ANCHORS)
    positive = np.isin(np.arange(ANCHORS), order[:positives])
    ignored = np.isin(np.arange(ANCHORS), order[positives : positives + 6])
    target = np.where(positive, rng.integers(1, CLASSES, ANCHORS), 0)
    return logits, target.astype(np.int32), positive, ignored


def test_cross_entropy_is_the_formula():
    logits, target, *_ = image(0, 10)
    got = cross_entropy(logits, target)
    np.testing.assert_allclose(got, numpy_cross_entropy(logits, target), rtol=1e-5)
    # Certain and right costs nothing; certain and wrong the distance; no overflow.
    sure = jnp.array([[1e4, 0.0], [1e4, 0.0]], jnp.float32)
    got = cross_entropy(sure, jnp.array([0, 1]))
    np.testing.assert_allclose(got, [0, 1e4])
    half = cross_entropy(jnp.zeros((1, 5), jnp.bfloat16), jnp.array([3]))
    np.testing.assert_allclose(half, [np.log(5)], rtol=1e-6)
    assert half.dtype == jnp.float32


def test_smooth_l1_by_hand():
    x = jnp.array([-3, -1, -0.5, 0, 0.5, 1, 2], jnp.float32)
    np.testing.assert_allclose(
        losses.smooth_l1(x), [2.5, 0.5, 0.125, 0, 0.125, 0.5, 1.5]
    )
    slope = jax.jit(jax.vmap(jax.grad(losses.smooth_l1)))(x)
    np.testing.assert_allclose(slope, [-1, -1, -0.5, 0, 0.5, 1, 1])


# (loss, candidates, count, taken)
MINED = [
    ([0.1, 0.9, 0.5, 0.7], [1, 1, 1, 1], 2, [0, 1, 0, 1]),
    ([0.1, 0.9, 0.5, 0.7], [1, 0, 1, 1], 2, [0, 0, 1, 1]),
    # Ties go to the lower index, and no more are taken than asked for.
    ([0.5, 0.5, 0.5, 0.5], [1, 1, 1, 1], 2, [1, 1, 0, 0]),
    ([0.5, 0.5, 0.5, 0.9], [0, 1, 1, 1], 2, [0, 1, 0, 1]),
    # More than there are: all.
    ([0.1, 0.2, 0.3, 0.4], [1, 0, 1, 0], 9, [1, 0, 1, 0]),
    ([0.1, 0.2, 0.3, 0.4], [1, 1, 1, 1], 0, [0, 0, 0, 0]),
    # A loss of zero is as good a negative as any.
    ([0.0, 0.0, 0.0, 0.0], [0, 1, 1, 1], 2, [0, 1, 1, 0]),
]


@pytest.mark.parametrize(("loss", "negative", "count", "taken"), MINED)
def test_mining_tables(loss, negative, count, taken):
    got = mine(
        jnp.array(loss, jnp.float32), jnp.array(negative, bool), jnp.array(count)
    )
    np.testing.assert_array_equal(got, np.array(taken, bool))


def test_mining_is_the_ranking():
    rng = np.random.default_rng(0)
    loss = (rng.integers(0, 6, (20, ANCHORS)) / 5).astype(np.float32)
    negative, count = rng.uniform(size=loss.shape) < 0.7, rng.integers(0, 40, 20)
    got = mine(loss, negative, count)
    for row in range(20):
        expected = numpy_mining(loss[row], negative[row], count[row])
        np.testing.assert_array_equal(got[row], expected)


# 4 x 3 = 12 negatives; 11 x 3 = 33 of the 23 left; none, where min_negatives counts.
@pytest.mark.parametrize("positives", [4, 11, 0, 1])
@pytest.mark.parametrize("least", [0, 5])
def test_classification_is_the_formula(positives, least):
    logits, target, positive, ignored = image(positives, positives)
    each = numpy_cross_entropy(logits, target)
    count = max(3 * positives, least)
    mined = numpy_mining(each, ~positive & ~ignored, count)
    assert mined.sum() == min(count, ANCHORS - positives - 6)
    got = classify(logits, target, positive, ignored, least=least)
    np.testing.assert_allclose(got, each[positive | mined].sum(), rtol=1e-5)


def test_an_empty_image_trains_its_negatives():
    logits, target, positive, ignored = image(0, 0)
    gradient = jax.grad(classify)(jnp.asarray(logits), target, positive, ignored)
    touched = np.abs(gradient).max(axis=1) > 0
    each = numpy_cross_entropy(logits, target)
    np.testing.assert_array_equal(touched, numpy_mining(each, ~ignored, 3))
    # The background's logit is pulled up, all others down.
    assert (np.array(gradient)[touched, 0] < 0).all()
    assert (np.array(gradient)[touched, 1:] > 0).all()


def test_ignored_anchors_have_no_part():
    logits, target, positive, ignored = image(3, 5)
    changed = np.where(ignored[:, None], logits[:, ::-1] * 50, logits)
    np.testing.assert_array_equal(
        classify(logits, target, positive, ignored),
        classify(changed, target, positive, ignored),
    )


def test_localization_is_the_formula():
    rng = np.random.default_rng(0)
    offsets = rng.normal(0, 2, (ANCHORS, 4)).astype(np.float32)
    target = rng.normal(0, 2, (ANCHORS, 4)).astype(np.float32)
    positive = rng.uniform(size=ANCHORS) < 0.3
    target[np.flatnonzero(~positive)[0]] = np.nan  # Never looked at.
    both = jax.jit(jax.value_and_grad(losses.localization_loss))
    got, gradient = both(offsets, target, positive)
    expected = numpy_smooth_l1((offsets - target)[positive])
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(np.array(gradient)[~positive], 0)
    np.testing.assert_allclose(
        np.array(gradient)[positive],
        np.clip((offsets - target)[positive], -1, 1),
        atol=1e-6,
    )


def random_matching(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (12, 30)).astype(np.float32)
    sources = rng.uniform(size=(12, 30)) < 0.2
    sources[3] = False
    weight = (rng.uniform(size=12) < 0.6) & sources.any(axis=1)
    return logits, sources, weight


@jax.jit
def matching(logits, sources, weight):
    return losses.matching_loss(logits, sources, weight)


@pytest.mark.parametrize("seed", range(4))
def test_matching_is_the_loop(seed):
    """DESIGN.md, section 1: -log of the sum of P[r, t] over t in M."""
    logits, sources, weight = random_matching(seed)
    expected = 0.0
    for r in np.flatnonzero(weight):
        row = np.exp(logits[r].astype(np.float64))
        row /= row.sum()
        expected -= np.log(sum(row[t] for t in range(30) if sources[r, t]))
    assert expected > 0
    got = matching(logits, sources, weight)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_matching_gradients_are_finite_and_stay_in_their_rows():
    logits, sources, weight = random_matching(0)
    # A row without sources that does not count, and one as wrong as can be.
    worst = int(np.flatnonzero(weight)[0])
    logits[worst] = np.where(sources[worst], -200, 200)
    value, gradient = jax.value_and_grad(matching)(logits, sources, weight)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(np.array(gradient)[~weight], 0)
    # Sources are pulled up, the rest down.
    counted = np.array(gradient)[weight]
    assert (counted[sources[weight]] <= 0).all()
    assert (counted[~sources[weight]] >= 0).all()
    assert np.abs(counted).max() > 0.1


def test_matching_without_descriptors_is_zero():
    logits, sources, _ = random_matching(0)
    none = np.zeros(12, bool)
    value, gradient = jax.value_and_grad(matching)(logits, sources, none)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)
