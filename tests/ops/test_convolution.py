"""Gradients of convolutions on CPUs against those of the library."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.ops import convolution

OPTIONS = {
    "same": dict(padding="SAME"),
    "valid": dict(padding="VALID"),
    "dilated": dict(padding=((6, 6), (6, 6)), rhs_dilation=(6, 6)),
    "strided": dict(padding=((1, 1), (1, 1)), strides=(2, 2)),
    "uneven": dict(padding=((2, 0), (0, 3)), strides=(2, 3), rhs_dilation=(2, 1)),
    "uneven, no strides": dict(padding=((2, 0), (0, 3)), rhs_dilation=(1, 2)),
}


def library(x, kernel, strides=(1, 1), padding="SAME", rhs_dilation=(1, 1)):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        rhs_dilation=rhs_dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def draw(*shape, dtype=np.float32):
    random = np.random.default_rng(len(shape) + sum(shape))
    return jnp.asarray(random.standard_normal(shape), dtype)


def gradients(apply, x, kernel):
    made = apply(x, kernel)
    return made, *jax.vjp(apply, x, kernel)[1](draw(*made.shape, dtype=made.dtype))


@pytest.mark.parametrize("block", [1, 3000, 10**6])
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("taps", [(3, 3), (1, 2)])
def test_gradients_equal_the_librarys(monkeypatch, name, block, taps):
    """Blocks of one row, of several rows and of several images."""
    monkeypatch.setattr(convolution, "_BLOCK", block)
    x, kernel = draw(4, 19, 17, 5), draw(*taps, 5, 32)
    options = OPTIONS[name]
    ours = gradients(functools.partial(convolution.convolve, **options), x, kernel)
    theirs = gradients(functools.partial(library, **options), x, kernel)
    np.testing.assert_array_equal(ours[0], theirs[0])
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * float(jnp.abs(other).max()))


@pytest.mark.parametrize(
    ("made", "kernel", "blocks"),
    [
        ((1, 300, 300, 64), (3, 3, 64, 64), (1, 2, 150)),
        ((8, 24, 24, 64), (3, 3, 64, 64), (1, 24, 1)),
        ((8, 12, 12, 64), (3, 3, 32, 64), (8, 12, 1)),
        ((6, 12, 12, 64), (3, 3, 64, 64), (3, 12, 1)),
        # A block of half of the kernel's size.
        ((1, 19, 19, 1024), (3, 3, 1024, 1024), (1, 19, 1)),
    ],
)
def test_blocks_have_the_size_of_a_cache(made, kernel, blocks):
    assert convolution._blocks(made, kernel) == blocks


def primitives(function, *arguments):
    """Counts operations in the program for a CPU."""
    text = jax.jit(function).lower(*arguments).as_text()
    return {name: text.count(f"stablehlo.{name}") for name in ("while", "convolution")}


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (32, {"while": 1, "convolution": 1}),
        # The library's convolution, without a loop, is faster for few channels.
        (31, {"while": 0, "convolution": 2}),
    ],
)
def test_cpus_use_matrix_products_for_many_channels(made, expected):
    def function(x, kernel, gradient):
        return jax.vjp(convolution.convolve, x, kernel)[1](gradient)

    arguments = draw(2, 300, 300, 8), draw(3, 3, 8, made), draw(2, 300, 300, made)
    assert primitives(function, *arguments) == expected


def test_other_platforms_use_the_librarys_gradients():
    def function(apply):
        return lambda x, kernel, gradient: jax.vjp(apply, x, kernel)[1](gradient)

    arguments = draw(2, 30, 30, 8), draw(3, 3, 8, 64), draw(2, 30, 30, 64)
    ours, theirs = (
        jax.jit(function(apply))
        .trace(*arguments)
        .lower(lowering_platforms=("tpu",))
        .as_text()
        for apply in (convolution.convolve, library)
    )
    for name in ("while", "convolution", "dot_general"):
        assert ours.count(f"stablehlo.{name}") == theirs.count(f"stablehlo.{name}")


def test_gradients_are_summed_in_float32():
    x, kernel = (draw(*s, dtype=jnp.bfloat16) for s in ((8, 40, 40, 4), (3, 3, 4, 32)))
    gradient = jnp.ones((8, 40, 40, 32), jnp.bfloat16)
    (found,) = jax.vjp(lambda k: convolution.convolve(x, k), kernel)[1](gradient)
    x, kernel, gradient = (a.astype(np.float32) for a in (x, kernel, gradient))
    (exact,) = jax.vjp(lambda k: library(x, k), kernel)[1](gradient)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(float), exact, rtol=2**-8, atol=1e-2)


@pytest.mark.parametrize("shape", [(0, 9, 9, 4), (2, 0, 9, 4), (2, 2, 2, 4)])
def test_empty_maps_have_gradients_of_zero(shape):
    x, kernel = jnp.zeros(shape), draw(3, 3, 4, 32)
    _, of_x, of_kernel = gradients(
        functools.partial(convolution.convolve, padding="VALID"), x, kernel
    )
    assert of_x.shape == shape
    np.testing.assert_array_equal(of_kernel, np.zeros(kernel.shape))


@pytest.mark.parametrize(
    "options",
    [
        dict(lhs_dilation=(2, 2)),
        dict(feature_group_count=2),
        dict(precision="highest"),
        dict(dimension_numbers=("NCHW", "HWIO", "NCHW")),
    ],
)
def test_unsupported_arguments_raise_an_error(options):
    with pytest.raises(ValueError, match="supports no"):
        convolution.convolve(draw(2, 8, 8, 4), draw(3, 3, 4, 32), **options)


def test_flax_layers_accept_it():
    x = draw(2, 9, 9, 3)
    layers = [
        nn.Conv(32, (3, 3), strides=2, padding=1, **options)
        for options in ({}, {"conv_general_dilated": convolution.convolve})
    ]
    variables = layers[0].init(jax.random.key(0), x)

    def loss(variables, layer):
        return jnp.sum(layer.apply(variables, x) ** 2)

    ours, theirs = (jax.grad(loss)(variables, layer) for layer in layers[::-1])
    for one, other in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
