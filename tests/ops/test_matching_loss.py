"""The loss of those descriptors that count is that of all of them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.models.borrowing import Matching
from borrow_det.ops import losses
from borrow_det.ops import matching_loss as matching_losses

BATCH, QUERIES, POSITIONS, CHANNELS, OBJECTS = 3, 61, 20, 6, 4


def make(share, seed=0, alike=False):
    rng = np.random.default_rng(seed)
    queries = 1 if alike else QUERIES
    Q = rng.normal(size=(BATCH, queries, CHANNELS)).astype(np.float32)
    K = rng.normal(size=(BATCH, POSITIONS, CHANNELS)).astype(np.float32)
    sources = rng.uniform(size=(BATCH, OBJECTS, POSITIONS)) < 0.3
    sources[:, 0] = True
    targets = matching_losses.BorrowTargets(
        sources=sources,
        index=rng.integers(0, OBJECTS, (BATCH, QUERIES)).astype(np.int32),
        counts=rng.uniform(size=(BATCH, QUERIES)) < share,
    )
    has_source = np.take_along_axis(sources.any(axis=2), targets.index, axis=1)
    return (Q, K), targets._replace(counts=targets.counts & has_source)


def loss(arrays, targets):
    matching = Matching(*arrays, 1.5, True, QUERIES)
    return matching_losses.matching_loss(matching, targets)


def whole(arrays, targets):
    """Over all R T similarities."""
    Q, K = arrays
    S = 1.5 * jnp.einsum("brc,btc->brt", Q, K)
    S = jnp.broadcast_to(S, (BATCH, QUERIES, POSITIONS))
    sources = jnp.take_along_axis(targets.sources, targets.index[..., None], axis=1)
    return jnp.sum(jax.vmap(losses.matching_loss)(S, sources, targets.counts))


# The first part has room for none, some or all of those that count.
@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("alike", [False, True], ids=["matching", "pooling"])
def test_the_parts_are_the_whole(monkeypatch, share, alike):
    monkeypatch.setattr(matching_losses, "_ROWS", 8)
    arrays, targets = make(share, alike=alike)
    assert bool(targets.counts.any()) == (share > 0)
    value, gradient = jax.jit(jax.value_and_grad(loss))(arrays, targets)
    expected, by_whole = jax.jit(jax.value_and_grad(whole))(arrays, targets)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for a, b in zip(gradient, by_whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_all_similarities_are_never_held(monkeypatch):
    monkeypatch.setattr(matching_losses, "_ROWS", 8)
    arrays, targets = make(0.5)
    text = jax.jit(jax.grad(loss)).lower(arrays, targets).as_text()
    shapes = re.findall(r"tensor<((?:\d+x)*\d+)xf32>", text)
    sizes = [np.prod([int(n) for n in shape.split("x")]) for shape in shapes]
    assert max(sizes) < BATCH * QUERIES * POSITIONS
