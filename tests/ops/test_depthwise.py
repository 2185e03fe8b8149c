"""Depthwise convolution against the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.ops import depthwise


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    x, gradient = rng.normal(size=(2, 2, 5, 6, 3)).astype(np.float32)
    return x, rng.normal(size=(3, 5, 3)).astype(np.float32), gradient


def by_definition(x, kernel):
    y = np.zeros_like(x)
    height, width = x.shape[1:3]
    for i in range(height):
        for j in range(width):
            for k in range(kernel.shape[0]):
                for m in range(kernel.shape[1]):
                    row, column = i + k - 1, j + m - 2
                    if 0 <= row < height and 0 <= column < width:
                        y[:, i, j] += x[:, row, column] * kernel[k, m]
    return y


@pytest.mark.parametrize("form", [depthwise.depthwise_convolve, depthwise._grouped])
def test_both_forms_are_the_definition(arrays, form):
    x, kernel, _ = arrays
    np.testing.assert_allclose(form(x, kernel), by_definition(x, kernel), atol=1e-5)


def test_both_forms_have_the_same_gradient(arrays):
    x, kernel, gradient = arrays

    def loss(form):
        return lambda x, kernel: jnp.sum(form(x, kernel) * gradient)

    found, expected = (
        jax.grad(loss(form), (0, 1))(x, kernel)
        for form in (depthwise.depthwise_convolve, depthwise._grouped)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_bfloat16_is_summed_in_float32(arrays):
    x, kernel, _ = (jnp.asarray(array, jnp.bfloat16) for array in arrays)
    exact = by_definition(*(np.asarray(array, np.float32) for array in (x, kernel)))
    found = depthwise.depthwise_convolve(x, kernel)
    assert found.dtype == jnp.bfloat16
    expected = jnp.asarray(exact, jnp.bfloat16)  # Rounded once.
    np.testing.assert_array_equal(found, expected)
