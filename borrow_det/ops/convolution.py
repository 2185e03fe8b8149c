"""Convolution whose gradients are in a form that XLA runs well on CPUs.

Its own gradient of the kernel takes, there, up to eleven times as long for one image as
the same arithmetic forward: here a few rows at a time are unfolded to the patches that
the kernel meets, and multiplied with the gradient of what it made. Its own gradient of
the maps takes four times as long in a loop, such as that over micro-batches, as
outside: here it is a convolution like any other.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

_NHWC = ("NHWC", "HWIO", "NHWC")
# Values of the patches of a block: they stay in a core's cache.
_BLOCK = 350_000
# With fewer channels made, XLA's gradient is the faster one.
_CHANNELS = 32

_Pair = tuple[int, int]


def convolve(
    x: Array,
    kernel: Array,
    strides: Sequence[int] = (1, 1),
    padding: str | Sequence[Sequence[int]] = "SAME",
    lhs_dilation: Sequence[int] = (1, 1),
    rhs_dilation: Sequence[int] = (1, 1),
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> Array:
    """`lax.conv_general_dilated` of maps, with the arguments that nn.Conv gives it.

    Its gradients are those of reverse mode alone. In a shard_map x and the kernel vary
    over the same axes.

    Args:
      x: [B, H, W, C].
      kernel: [h, w, C, C'].
      strides: of rows and columns.
      padding: as lax takes it.
      lhs_dilation: 1, 1.
      rhs_dilation: of the kernel.
      dimension_numbers: those of x and kernel as they stand here.
      feature_group_count: 1.
      precision: None.

    Returns:
      [B, H', W', C'].

    Raises:
      ValueError: one of those that have a single value has another.
    """
    dimensions = lax.conv_dimension_numbers(x.shape, kernel.shape, _NHWC)
    if (
        any(n != 1 for n in (*lhs_dilation, feature_group_count))
        or dimension_numbers not in (None, dimensions)
        or precision is not None
    ):
        raise ValueError("lhs_dilation, groups, layouts and precision are not taken")
    if isinstance(padding, str):
        taps = (
            (n - 1) * d + 1 for n, d in zip(kernel.shape[:2], rhs_dilation, strict=True)
        )
        padding = lax.padtype_to_pads(x.shape[1:3], tuple(taps), strides, padding)
    padding = tuple((int(low), int(high)) for low, high in padding)
    return _convolve(x, kernel, tuple(strides), padding, tuple(rhs_dilation))


def _library(x, kernel, strides, padding, dilation):
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=strides,
        padding=padding,
        rhs_dilation=dilation,
        dimension_numbers=_NHWC,
    )


_convolve = jax.custom_vjp(_library, nondiff_argnums=(2, 3, 4))


def _forward(x, kernel, *options):
    return _library(x, kernel, *options), (x, kernel)


def _backward(strides, padding, dilation, saved, gradient):
    options = dict(strides=strides, padding=padding, dilation=dilation)
    library = functools.partial(_library_gradients, **options)
    on_cpu = functools.partial(_cpu_gradients, **options)
    return lax.platform_dependent(*saved, gradient, cpu=on_cpu, default=library)


_convolve.defvjp(_forward, _backward)


def _library_gradients(x, kernel, gradient, **options):
    apply = functools.partial(_library, **options)
    return jax.vjp(apply, x, kernel)[1](gradient)


def _cpu_gradients(x, kernel, gradient, **options):
    of_x, of_kernel = _library_gradients(x, kernel, gradient, **options)
    if options["strides"] == (1, 1):
        of_x = _map_gradient(x, kernel, gradient, **options)
    if kernel.shape[-1] >= _CHANNELS and x.size and gradient.size:
        of_kernel = kernel_gradient(x, gradient, kernel.shape, **options)
    return of_x, of_kernel


def _map_gradient(x, kernel, gradient, strides, padding, dilation):
    """Of what a convolution without strides takes: one by its kernel backwards."""
    sides = zip(kernel.shape[:2], dilation, padding, x.shape[1:3], strict=True)
    around = []
    for (taps, apart, (low, _), size), made in zip(
        sides, gradient.shape[1:3], strict=True
    ):
        reach = (taps - 1) * apart
        before = reach - low
        around.append((before, size + reach - before - made))
    backwards = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    return _library(gradient, backwards, strides, tuple(around), dilation)


def kernel_gradient(
    x: Array,
    gradient: Array,
    shape: tuple[int, int, int, int],
    strides: _Pair,
    padding: tuple[_Pair, _Pair],
    dilation: _Pair,
) -> Array:
    """The gradient of a convolution's kernel, summed in float32 over blocks of rows.

    Args:
      x: what it convolves, [B, H, W, C].
      gradient: of what it makes, [B, H', W', C'].
      shape: of the kernel, (h, w, C, C').
      strides: of rows and columns.
      padding: zeros before and behind rows and columns.
      dilation: of the kernel.

    Returns:
      [h, w, C, C'], of x's type.
    """
    images, rows, steps = _blocks(gradient.shape, shape)
    batch, height, width, made = gradient.shape
    taps, taken = shape[:2], shape[2]
    reach = [
        (n - 1) * s + (t - 1) * d + 1
        for n, s, t, d in zip((rows, width), strides, taps, dilation, strict=True)
    ]
    # Rows of zeros fill the last block.
    sides = ((steps - 1) * rows * strides[0] + reach[0], reach[1])
    x = lax.pad(
        x,
        jnp.zeros((), x.dtype),
        (
            (0, 0, 0),
            *(
                (low, side - low - n, 0)
                for (low, _), side, n in zip(padding, sides, x.shape[1:3], strict=True)
            ),
            (0, 0, 0),
        ),
    )
    gradient = jnp.pad(gradient, ((0, 0), (0, steps * rows - height), (0, 0), (0, 0)))

    def product(block):
        image, row = block // steps * images, block % steps * rows
        part = lax.dynamic_slice(
            x, (image, row * strides[0], 0, 0), (images, *reach, taken)
        )
        made_of_it = lax.dynamic_slice(
            gradient, (image, row, 0, 0), (images, rows, width, made)
        )
        patches = _patches(part, (rows, width), taps, strides, dilation)
        return lax.dot_general(
            made_of_it.reshape(-1, made),
            patches.reshape(-1, math.prod(taps) * taken),
            (((0,), (0,)), ((), ())),
            preferred_element_type=jnp.float32,
        )

    def add(total, block):
        return total + product(block), None

    blocks = jnp.arange(1, batch // images * steps, dtype=jnp.int32)
    total, _ = lax.scan(add, product(jnp.zeros((), jnp.int32)), blocks)
    return total.T.reshape(shape).astype(x.dtype)


def _blocks(made: Sequence[int], kernel: Sequence[int]) -> tuple[int, int, int]:
    """(images of a block, its rows, blocks that an image's rows make).

    All of the gradient is passed over once a block: a block is half as large, or more.
    """
    batch, height, width, _ = made
    values = max(_BLOCK, math.prod(kernel) // 2)
    row = width * math.prod(kernel[:3])
    steps = math.ceil(height / max(1, values // row))
    rows = math.ceil(height / steps)
    images = 1
    if steps == 1:
        most = max(1, values // (rows * row))
        images = max(n for n in range(1, batch + 1) if batch % n == 0 and n <= most)
    return images, rows, steps


def _patches(x, sides, taps, strides, dilation):
    """[B, H, W, C] -> [B, *sides, h w C]: what each place of the kernel covers."""
    slices = []
    for place in ((i, j) for i in range(taps[0]) for j in range(taps[1])):
        start = [at * d for at, d in zip(place, dilation, strict=True)]
        end = [
            at + (side - 1) * stride + 1
            for at, side, stride in zip(start, sides, strides, strict=True)
        ]
        slices.append(
            lax.slice(
                x, (0, *start, 0), (x.shape[0], *end, x.shape[3]), (1, *strides, 1)
            )
        )
    return jnp.concatenate(slices, axis=-1)
