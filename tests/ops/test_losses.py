"""Losses against NumPy versions of their formulas, term by term."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.models.matching import Matching
from borrow_det.ops import losses
from borrow_det.ops.borrow_targets import BorrowTargets, Lenders

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


def test_cross_entropy_equals_its_formula():
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


def test_huge_logits_have_finite_cross_entropies_and_gradients():
    logits = jnp.array([[1e30, -1e30, 0], [300, 299, -300]], jnp.float32)
    target = jnp.array([0, 1])
    value, gradient = jax.value_and_grad(lambda x: cross_entropy(x, target).sum())(
        logits
    )
    np.testing.assert_allclose(value, np.log1p(np.e), rtol=1e-4)
    p = 1 / (1 + np.e)
    np.testing.assert_allclose(
        gradient, [[0, 0, 0], [1 - p, p - 1, 0]], rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothed_cross_entropy_is_the_one_of_a_mixed_target(smoothing):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (5, 7)).astype(np.float32)
    label = np.array([0, 6, 3, 3, 1], np.int32)
    target = np.full((5, 7), smoothing / 7)
    target[np.arange(5), label] += 1 - smoothing
    log_p = logits - np.log(np.exp(logits.astype(float)).sum(1, keepdims=True))
    found = losses.smoothed_cross_entropy(logits, label, smoothing)
    np.testing.assert_allclose(found, -(target * log_p).sum(axis=1), rtol=1e-5)

    def total(logits):
        return losses.smoothed_cross_entropy(logits, label, smoothing).sum()

    gradient = jax.grad(total)(logits)
    np.testing.assert_allclose(gradient, np.exp(log_p) - target, rtol=1e-4, atol=1e-6)


def test_smoothed_cross_entropy_is_smallest_at_the_mixed_target():
    target = np.array([0.9 + 0.1 / 4, *[0.1 / 4] * 3], np.float32)
    gradient = jax.grad(losses.smoothed_cross_entropy)(np.log(target), np.int32(0), 0.1)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_cross_entropies_are_float32_of_bfloat16_logits():
    logits = jnp.zeros((1, 5), jnp.bfloat16)
    for found in (
        losses.softmax_cross_entropy(logits, jnp.array([3])),
        losses.smoothed_cross_entropy(logits, jnp.array([3]), 0.1),
    ):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, [np.log(5)], rtol=1e-6)


def test_localization_is_smooth_l1_by_hand():
    error = jnp.array([-3, -1, -0.5, 0, 0.5, 1, 2, 1e30], jnp.float32).reshape(2, 4)
    both = jnp.ones(2, bool)

    def loss(offsets, positive):
        return losses.localization_loss(offsets, jnp.zeros((2, 4)), positive)

    # 2.5 + 0.5 + 0.125 + 0 and 0.125 + 0.5 + 1.5 + 1e30.
    np.testing.assert_allclose(loss(error, jnp.array([True, False])), 3.125)
    np.testing.assert_allclose(loss(error, both), 1e30, rtol=1e-6)
    slope = jax.jit(jax.grad(loss))(error, both)
    np.testing.assert_allclose(slope.ravel(), [-1, -1, -0.5, 0, 0.5, 1, 1, 1])


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
def test_mining_selects_the_hardest_candidates(loss, negative, count, taken):
    got = mine(
        jnp.array(loss, jnp.float32), jnp.array(negative, bool), jnp.array(count)
    )
    np.testing.assert_array_equal(got, np.array(taken, bool))


def test_mining_equals_sorting_by_loss():
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
def test_classification_sums_positives_and_mined_negatives(positives, least):
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
    # The background's logit rises, and all others fall.
    assert (np.array(gradient)[touched, 0] < 0).all()
    assert (np.array(gradient)[touched, 1:] > 0).all()


def test_ignored_anchors_do_not_change_the_loss():
    logits, target, positive, ignored = image(3, 5)
    changed = np.where(ignored[:, None], logits[:, ::-1] * 50, logits)
    np.testing.assert_array_equal(
        classify(logits, target, positive, ignored),
        classify(changed, target, positive, ignored),
    )


def test_localization_sums_smooth_l1_over_positives():
    rng = np.random.default_rng(0)
    offsets = rng.normal(0, 2, (ANCHORS, 4)).astype(np.float32)
    target = rng.normal(0, 2, (ANCHORS, 4)).astype(np.float32)
    positive = rng.uniform(size=ANCHORS) < 0.3
    target[np.flatnonzero(~positive)[0]] = np.nan  # Must not be used.
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


matching = jax.jit(losses.source_cross_entropy)


@pytest.mark.parametrize("seed", range(4))
def test_source_cross_entropy_equals_a_loop(seed):
    """-log of the sum of P[r, t] over t in M, descriptor by descriptor."""
    logits, sources, weight = random_matching(seed)
    expected = 0.0
    for r in np.flatnonzero(weight):
        row = np.exp(logits[r].astype(np.float64))
        row /= row.sum()
        expected -= np.log(sum(row[t] for t in range(30) if sources[r, t]))
    assert expected > 0
    got = matching(logits, sources, weight)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_source_cross_entropy_gradients_are_finite_and_only_in_rows_that_count():
    logits, sources, weight = random_matching(0)
    # A row without sources that does not count, and one as wrong as can be.
    worst = int(np.flatnonzero(weight)[0])
    logits[worst] = np.where(sources[worst], -200, 200)
    value, gradient = jax.value_and_grad(matching)(logits, sources, weight)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(np.array(gradient)[~weight], 0)
    # Similarities with sources rise, and the others fall.
    counted = np.array(gradient)[weight]
    assert (counted[sources[weight]] <= 0).all()
    assert (counted[~sources[weight]] >= 0).all()
    assert np.abs(counted).max() > 0.1


def test_source_cross_entropy_without_descriptors_is_zero():
    logits, sources, _ = random_matching(0)
    none = np.zeros(12, bool)
    value, gradient = jax.value_and_grad(matching)(logits, sources, none)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


BATCH, QUERIES, POSITIONS, CHANNELS, OBJECTS = 3, 61, 20, 6, 4


def make_level(share, seed=0, alike=False):
    rng = np.random.default_rng(seed)
    queries = 1 if alike else QUERIES
    Q = rng.normal(size=(BATCH, queries, CHANNELS)).astype(np.float32)
    K = rng.normal(size=(BATCH, POSITIONS, CHANNELS)).astype(np.float32)
    sources = rng.uniform(size=(BATCH, OBJECTS, POSITIONS)) < 0.3
    sources[:, 0] = True
    targets = BorrowTargets(
        sources=sources,
        box_index=rng.integers(0, OBJECTS, (BATCH, QUERIES)).astype(np.int32),
        counts=rng.uniform(size=(BATCH, QUERIES)) < share,
    )
    has_source = np.take_along_axis(sources.any(axis=2), targets.box_index, axis=1)
    return (Q, K), targets._replace(counts=targets.counts & has_source)


def level_loss(arrays, targets):
    matching = Matching(*arrays, 1.5, True, QUERIES)
    return losses.matching_loss(matching, targets)


def dense_loss(arrays, targets):
    """The loss over all R T similarities."""
    Q, K = arrays
    S = 1.5 * jnp.einsum("brc,btc->brt", Q, K)
    S = jnp.broadcast_to(S, (BATCH, QUERIES, POSITIONS))
    sources = jnp.take_along_axis(targets.sources, targets.box_index[..., None], axis=1)
    return jnp.sum(jax.vmap(losses.source_cross_entropy)(S, sources, targets.counts))


# The first part has room for some or all of the descriptors that count.
@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("alike", [False, True], ids=["matching", "pooling"])
def test_matching_loss_in_parts_equals_the_dense_loss(monkeypatch, share, alike):
    monkeypatch.setattr(losses, "_ROWS", 8)
    arrays, targets = make_level(share, alike=alike)
    assert bool(targets.counts.any()) == (share > 0)
    value, gradient = jax.jit(jax.value_and_grad(level_loss))(arrays, targets)
    expected, by_dense = jax.jit(jax.value_and_grad(dense_loss))(arrays, targets)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for a, b in zip(gradient, by_dense, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def loss_of_one_lender(S, sources):
    weights = np.exp(S - S.max())
    return -np.log(weights[sources].sum() / weights.sum())


def test_the_most_attended_lender_is_the_one_with_the_smallest_loss(monkeypatch):
    monkeypatch.setattr(losses, "_ROWS", 8)
    (Q, K), targets = make_level(0.5)
    rng = np.random.default_rng(4)
    lend = rng.uniform(size=(BATCH, OBJECTS, 5)) < 0.5
    inside = rng.uniform(size=(BATCH, 5, POSITIONS)) < 0.3
    lenders = Lenders(lend, inside)
    sources = np.asarray(lenders.sources)
    counts = np.take_along_axis(sources.any(axis=2), targets.box_index, axis=1)
    counts &= targets.counts
    targets = BorrowTargets(sources, targets.box_index, counts, lenders)
    expected, several = 0.0, 0
    for b, r in np.argwhere(counts):
        S = 1.5 * K[b] @ Q[b, r]
        places = inside[b][lend[b, targets.box_index[b, r]]]
        of_each = [loss_of_one_lender(S, one) for one in places if one.any()]
        expected += min(of_each)
        several += len(of_each) > 1
    assert several > 10
    value = jax.jit(level_loss)((Q, K), targets)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    together = jax.jit(level_loss)((Q, K), targets._replace(lenders=None))
    assert together < 0.95 * value  # Attention in any lender counts.


def test_the_most_attended_lender_needs_no_finite_similarities():
    """Positions of absent references have a similarity of minus infinity."""
    S = jnp.array([[-jnp.inf, 1.0, 2.0, -jnp.inf], [0.0, 0.0, 0.0, 0.0]])
    inside = jnp.array([[1, 1, 0, 0], [0, 0, 1, 1]], bool)
    lend = jnp.array([[1, 1], [0, 0]], bool)
    lenders = Lenders(lend, inside)
    kept = losses.sources_in_most_attended(S, lenders.sources, lenders)
    np.testing.assert_array_equal(kept, [[0, 0, 1, 1], [0, 0, 0, 0]])


def test_matching_loss_never_holds_all_similarities(monkeypatch):
    monkeypatch.setattr(losses, "_ROWS", 8)
    arrays, targets = make_level(0.5)
    text = jax.jit(jax.grad(level_loss)).lower(arrays, targets).as_text()
    shapes = re.findall(r"tensor<((?:\d+x)*\d+)xf32>", text)
    sizes = [np.prod([int(n) for n in shape.split("x")]) for shape in shapes]
    assert max(sizes) < BATCH * QUERIES * POSITIONS


def test_cross_entropy_is_bitwise_the_indexed_log_softmax():
    """Runs of earlier versions are repeated to the last digit."""
    key, other = jax.random.split(jax.random.key(0))
    logits = 30 * jax.random.normal(key, (64, 50, 5))
    target = jax.random.randint(other, (64, 50), 0, 5)

    def indexed(logits):
        log_p = jax.nn.log_softmax(logits, axis=-1)
        return -jnp.take_along_axis(log_p, target[..., None], axis=-1)[..., 0]

    def by_optax(logits):
        return losses.softmax_cross_entropy(logits, target)

    for function in (lambda f: f, lambda f: jax.grad(lambda x: jnp.sum(f(x)))):
        expected, found = (jax.jit(function(f))(logits) for f in (indexed, by_optax))
        np.testing.assert_array_equal(found, expected)
