"""FLOPs of programs against formulas, and against XLA's count where it is correct."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.tools.aot_compile import program_cost


def shape(*sides):
    return jax.ShapeDtypeStruct(sides, np.float32)


def convolution(image, kernel, **options):
    """Convolves [B, H, W, C] with [H, W, C, C']; the default stride is 1."""
    options = {"window_strides": (1, 1), "padding": "SAME"} | options
    return jax.lax.conv_general_dilated(
        image, kernel, **options, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


OPTIONS = {
    "same": {},
    "valid": dict(padding="VALID"),
    "stride": dict(window_strides=(2, 2), padding=((1, 1), (1, 1))),
    "kernel dilated": dict(rhs_dilation=(6, 6), padding=((6, 6), (6, 6))),
    "input dilated": dict(lhs_dilation=(2, 2), padding=((2, 2), (2, 2))),
    "groups": dict(feature_group_count=2),
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("of", ["value", "image's gradient", "kernel's gradient"])
def test_flops_of_a_convolution_are_those_that_xla_counts(name, of):
    apply = functools.partial(convolution, **OPTIONS[name])
    taken = 4 if name == "groups" else 8
    image, kernel = shape(2, 19, 17, 8), shape(3, 3, taken, 16)
    if of == "value":
        function, args = apply, (image, kernel)
    else:
        place = 0 if of == "image's gradient" else 1
        out = jax.eval_shape(apply, image, kernel)
        args = (image, kernel, out)

        def function(image, kernel, cotangent):
            return jax.vjp(apply, image, kernel)[1](cotangent)[place]

    counted = program_cost.products(function, *args).flops
    assert counted == jax.jit(function).lower(*args).cost_analysis()["flops"]


def test_a_choice_by_platform_counts_as_its_default_branch():
    def function(a):
        return jax.lax.platform_dependent(a, cpu=lambda a: a, default=lambda a: a @ a)

    assert program_cost.products(function, shape(8, 8)).flops == 2 * 8**3


def test_a_product_counts_by_its_sides_and_their_padding():
    def function(a, b):
        return jnp.einsum("bmk,bnk->bmn", a, b)

    found = program_cost.products(function, shape(3, 1000, 20), shape(3, 130, 20))
    assert found.flops == 2 * 3 * 1000 * 20 * 130
    assert found.padded == 2 * 3 * 1000 * 128 * 256
    assert found.wasted == pytest.approx(1 - 20 * 130 / (128 * 256))


def test_channels_are_padded_in_gradients_of_a_convolution_as_well():
    image, kernel = shape(2, 20, 22, 3), shape(3, 3, 3, 130)
    padded = 2 * 9 * 128 * 256 * (2 * 20 * 22)
    assert program_cost.products(convolution, image, kernel).padded == padded
    both = program_cost.products(
        jax.grad(lambda i, k: convolution(i, k).sum(), argnums=(0, 1)), image, kernel
    )
    assert both.padded == 2 * padded


def test_each_group_is_padded_separately():
    apply = functools.partial(convolution, feature_group_count=2)
    found = program_cost.products(apply, shape(1, 16, 16, 8), shape(1, 1, 4, 16))
    assert found.padded == 2 * 2 * 256 * 128 * 128


PRODUCT = 2 * 4**3


def in_a_map(a):
    return jax.lax.map(lambda x: x @ x, jnp.stack([a] * 5))


def in_a_fori_loop(a):
    return jax.lax.fori_loop(0, 5, lambda i, x: x @ a, a)


def in_a_while_loop(a):
    return jax.lax.while_loop(lambda x: jnp.all(x < 1), lambda x: x @ a, a)


def chosen(a):
    return jax.lax.cond(a[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, a)


def kept_for_the_gradient(a):
    return jax.grad(lambda x: jnp.sum(jnp.tanh(x @ a)))(a)


def computed_again(a):
    def layer(x):
        return jnp.sum(jnp.sin(jnp.sin(x @ a) @ a))

    return jax.grad(jax.checkpoint(layer))(a)


def jitted_twice(a):
    return jax.jit(jax.jit(lambda x: x @ x))(a)


def not_read(a):
    return (a, a @ a)[0]


@pytest.mark.parametrize(
    ("function", "times"),
    [
        (in_a_map, 5),
        (in_a_fori_loop, 5),
        (in_a_while_loop, 1),
        (chosen, 1),
        (kept_for_the_gradient, 2),
        (computed_again, 4),  # An unused value is not computed again.
        (jitted_twice, 1),
        (not_read, 0),
    ],
)
def test_each_product_counts_as_often_as_it_is_computed(function, times):
    assert program_cost.products(function, shape(4, 4)).flops == times * PRODUCT


def test_flops_of_all_devices_are_added_up():
    mesh = jax.sharding.Mesh(jax.devices()[:2], "data")
    split = jax.sharding.PartitionSpec("data")
    function = jax.shard_map(
        lambda a: a @ a.T, mesh=mesh, in_specs=split, out_specs=split
    )
    assert program_cost.products(function, shape(8, 4)).flops == 2 * 2 * 4**3


def test_a_program_without_products_wastes_nothing():
    assert program_cost.products(jnp.tanh, shape(4)).wasted == 0
