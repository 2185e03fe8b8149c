"""Forms of the weighted sum against each other and the formula."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.ops import attention

BATCH, QUERIES, POSITIONS, CHANNELS = 2, 37, 29, 8
BLOCK = 10  # Leaves a remainder of the queries.


def draw(dtype=jnp.float32, seed=0):
    rng = np.random.default_rng(seed)
    shapes = ((QUERIES, CHANNELS), (POSITIONS, CHANNELS), (POSITIONS, 5))
    return [
        jnp.asarray(rng.normal(0, 1, (BATCH, *shape)), dtype).astype(dtype)
        for shape in shapes
    ]


def sum_of(form, softmax=True, block=BLOCK):
    return functools.partial(
        attention.weighted_sum, softmax=softmax, form=form, block=block
    )


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("form", ["auto", "plain", "blocks"])
def test_every_form_equals_the_formula(form, softmax):
    Q, K, V = draw()
    found = jax.jit(sum_of(form, softmax))(Q, K, V, 0.7)
    S = 0.7 * np.float64(Q) @ np.float64(K).swapaxes(1, 2)
    P = np.exp(S) / np.exp(S).sum(axis=-1, keepdims=True) if softmax else S / POSITIONS
    np.testing.assert_allclose(found, P @ np.float64(V), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("softmax", [True, False])
def test_blocks_have_the_gradients_of_plain(softmax):
    weight = np.random.default_rng(1).normal(size=(BATCH, QUERIES, 5))

    def gradient(form):
        def loss(*arguments):
            return jnp.sum(sum_of(form, softmax)(*arguments) * weight)

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(*draw(), 0.7)

    plain, blocks = gradient("plain"), gradient("blocks")
    for name, a, b in zip(("Q", "K", "V", "scale"), plain, blocks, strict=True):
        assert np.abs(a).max() > 0.01
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=name)


def test_blocks_sum_bfloat16_gradients_in_float32():
    """A bfloat16 sum of ones would stop at 256.

    Queries of zero weight all positions equally, so each adds as much to V's gradient.
    """
    queries = 4096
    Q = jnp.zeros((1, queries, CHANNELS), jnp.bfloat16)
    K = jnp.ones((1, 2, CHANNELS), jnp.bfloat16)

    def loss(V):
        return jnp.sum(sum_of("blocks", block=8)(Q, K, V, 1.0).astype(jnp.float32))

    gradient = jax.jit(jax.grad(loss))(jnp.ones((1, 2, 1), jnp.bfloat16))
    np.testing.assert_array_equal(gradient.astype(jnp.float32), queries / 2)


def test_blocks_never_hold_all_similarities():
    def shapes(form):
        def loss(*arguments):
            return jnp.sum(sum_of(form)(*arguments, 1.0) ** 2)

        text = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*draw()).as_text()
        return {
            tuple(map(int, shape.split("x")))
            for shape in re.findall(r"tensor<((?:\d+x)*\d+)xf32>", text)
        }

    whole = (BATCH, QUERIES, POSITIONS)
    assert whole in shapes("plain")
    size = BATCH * QUERIES * POSITIONS
    assert max(map(np.prod, shapes("blocks"))) < size
