"""Convolutions against flax's, and pixel statistics by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.models.layers import Conv, PixelStatistics, max_pool_overlapping

IMAGE = np.float32([[[[10, 20, 30], [12, 28, 45]]]])


def test_rgb_pixels_are_shifted_and_scaled():
    found = PixelStatistics("RGB", (10.0, 20.0, 30.0), (2.0, 4.0, 5.0))(IMAGE)
    np.testing.assert_array_equal(found, [[[[0, 0, 0], [1, 2, 3]]]])


def test_bgr_order_reverses_the_channels():
    found = PixelStatistics("BGR", (30.0, 20.0, 10.0), (5.0, 4.0, 2.0))(IMAGE)
    np.testing.assert_array_equal(found, [[[[0, 0, 0], [3, 2, 1]]]])


def test_gray_is_the_rgb_color_that_becomes_zero():
    for order, mean in (("RGB", (1.0, 2.0, 3.0)), ("BGR", (3.0, 2.0, 1.0))):
        statistics = PixelStatistics(order, mean, (1.0, 1.0, 1.0))
        assert statistics.gray == (1, 2, 3)
        np.testing.assert_array_equal(
            statistics(np.float32([statistics.gray])), [[0, 0, 0]]
        )


# Fields of Conv, and the equal fields of flax's nn.Conv.
CONVOLUTIONS = [
    (dict(channels=4), dict(features=4, kernel_size=(1, 1))),
    (dict(channels=4, kernel=3), dict(features=4, kernel_size=(3, 3))),
    (
        dict(channels=4, kernel=3, stride=2, use_bias=False),
        dict(features=4, kernel_size=(3, 3), strides=2, padding=1, use_bias=False),
    ),
    (
        dict(channels=40, kernel=3, dilation=6, padding=6),
        dict(features=40, kernel_size=(3, 3), kernel_dilation=6, padding=6),
    ),
    (
        dict(channels=4, kernel=7, padding=0, dtype=jnp.bfloat16),
        dict(features=4, kernel_size=(7, 7), padding="VALID", dtype=jnp.bfloat16),
    ),
]


@pytest.mark.parametrize(("ours", "flax_fields"), CONVOLUTIONS)
def test_conv_has_the_parameters_values_and_gradients_of_flax(ours, flax_fields):
    """Old checkpoints and seeds keep their meaning."""
    x = np.random.default_rng(0).normal(size=(2, 9, 8, 3)).astype(np.float32)
    modules = Conv(**ours), nn.Conv(**flax_fields)
    variables, expected = (m.init(jax.random.key(3), x) for m in modules)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)

    def loss(variables, module):
        y = module.apply(variables, x)
        return jnp.sum(y.astype(jnp.float32) ** 2), y

    (_, y), gradient = jax.value_and_grad(loss, has_aux=True)(variables, modules[0])
    (_, flax_y), flax_gradient = jax.value_and_grad(loss, has_aux=True)(
        variables, modules[1]
    )
    assert y.dtype == flax_y.dtype
    np.testing.assert_array_equal(y, flax_y)

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())

    jax.tree.map(close, gradient, flax_gradient)


@pytest.mark.parametrize("size", [(6, 8), (7, 5), (1, 2), (1, 1)])
def test_overlapping_pooling_is_that_of_flax_with_a_border_of_one(size):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    expected = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    np.testing.assert_array_equal(max_pool_overlapping(x), expected)
