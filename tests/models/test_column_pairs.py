"""Layers on pairs of columns against the same layers on single columns."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.models import column_pairs, layers
from borrow_det.models.column_pairs import ColumnPairs
from borrow_det.models.trunks import vgg


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_pairs_store_the_channels_of_the_left_column_first():
    x = np.arange(24).reshape(1, 2, 4, 3)
    pairs = ColumnPairs.from_map(x)
    assert pairs.channels == 3
    np.testing.assert_array_equal(pairs.array[0, 1, 1], [*x[0, 1, 2], *x[0, 1, 3]])
    np.testing.assert_array_equal(pairs.to_map(), x)


def test_convolution_equals_the_one_of_single_columns(rng):
    x = rng.normal(size=(2, 5, 8, 3)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 3, 4)).astype(np.float32)
    bias = rng.normal(size=4).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), axis=(1, 2)
    )
    expected = np.einsum("byxchw,hwco->byxo", windows, kernel)
    y = column_pairs.convolve(ColumnPairs.from_map(x), kernel, bias)
    np.testing.assert_allclose(y.to_map(), expected + bias, atol=1e-5)
    y = column_pairs.convolve(ColumnPairs.from_map(x), kernel)
    np.testing.assert_allclose(y.to_map(), expected, atol=1e-5)


@pytest.mark.parametrize("height", [1, 6, 7])
def test_pooling_equals_the_one_of_single_columns_in_value_and_gradient(rng, height):
    # Few values, so that many are equal.
    x = rng.integers(3, size=(2, height, 8, 3)).astype(np.float32)
    expected, gradient = jax.vjp(layers.max_pool, x)
    found, gradient_of_pairs = jax.vjp(
        lambda x: layers.max_pool(ColumnPairs.from_map(x)), x
    )
    np.testing.assert_array_equal(found, expected)
    upper = rng.normal(size=expected.shape).astype(np.float32)
    np.testing.assert_array_equal(gradient_of_pairs(upper)[0], gradient(upper)[0])


def trunk(pairs, **options):
    return vgg.VGG16(width=1 / 16, pairs=pairs, **options)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_trunk_has_the_same_parameters_levels_and_gradients(rng, norm):
    image = rng.normal(size=(2, 37, 64, 3)).astype(np.float32)

    def loss(variables, pairs):
        levels, updates = trunk(pairs, norm=norm).apply(
            variables, image, train=True, mutable=["batch_stats"]
        )
        return sum(jnp.mean(level**2) for level in levels), (levels, updates)

    with jax.numpy_rank_promotion("allow"):  # flax's norm layers need it.
        variables, drawn = (
            trunk(p, norm=norm).init(jax.random.key(1), image) for p in (False, True)
        )
        jax.tree.map(np.testing.assert_array_equal, variables, drawn)
        results = [
            jax.value_and_grad(loss, has_aux=True)(variables, p) for p in (False, True)
        ]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0.01, atol=1e-3), *results
    )


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_equals_the_one_of_single_columns(rng, train):
    x = rng.normal(2.0, 3.0, size=(2, 4, 6, 5)).astype(np.float32)
    options = dict(use_running_average=not train, momentum=0.9, dtype=jnp.float32)
    params = {name: rng.normal(size=5).astype(np.float32) for name in ("scale", "bias")}
    stats = {
        "mean": rng.normal(size=5).astype(np.float32),
        "var": rng.uniform(1, 2, size=5).astype(np.float32),
    }
    variables = {"params": params, "batch_stats": stats}
    with jax.numpy_rank_promotion("allow"):
        expected, expected_stats = nn.BatchNorm(**options).apply(
            variables, x, mutable=["batch_stats"]
        )
    found, found_stats = column_pairs.BatchNorm(**options).apply(
        variables, ColumnPairs.from_map(x), mutable=["batch_stats"]
    )
    np.testing.assert_allclose(found.to_map(), expected, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        found_stats,
        expected_stats,
    )


def convolved_shapes(module, image):
    """Returns the shapes of the kernels of a module's first two convolutions."""
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    program = jax.make_jaxpr(module.apply)(variables, image)
    return [
        equation.invars[1].aval.shape
        for equation in program.eqns
        if equation.primitive.name == "custom_vjp_call"
    ][:2]


@pytest.mark.parametrize(
    ("options", "width", "times"),
    [
        (dict(pairs=True), 64, 2),
        (dict(pairs=False), 64, 1),
        (dict(pairs=True), 63, 1),
        (dict(pairs=True, norm="group", group_size=4), 64, 1),
        (dict(pairs=True, norm="batch"), 64, 2),
        (dict(pairs=True, remat=True), 64, 2),
    ],
)
def test_pairs_are_used_where_requested_and_supported(options, width, times):
    image = jax.ShapeDtypeStruct((1, 64, width, 3), np.float32)
    with jax.numpy_rank_promotion("allow"):  # flax's norm layers need it.
        kernels = convolved_shapes(vgg.VGG16(width=1 / 16, **options), image)
    assert kernels == [(3, 3, 3 * times, 4 * times), (3, 3, 4 * times, 4 * times)]
