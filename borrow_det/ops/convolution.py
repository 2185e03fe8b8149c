"""Convolution with gradients that are fast on CPUs.

On CPUs, XLA's gradient of the kernel takes up to eleven times as long for one image as
the forward pass, at the same arithmetic. Here, blocks of rows are unfolded to patches
and multiplied with the output's gradient. XLA's gradient of the maps takes four times
as long inside a loop, such as the one over micro-batches, as outside. Here, it is an
ordinary convolution.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

_NHWC = ("NHWC", "HWIO", "NHWC")
# Values in the patches of a block, which fit into a core's cache.
_BLOCK = 350_000
# With fewer output channels, XLA's gradient is faster.
_CHANNELS = 32

_Pair = tuple[int, ...]  # A value for rows and one for columns.
_Padding = tuple[tuple[int, int], ...]  # Zeros before and after each.


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
    """Convolves maps; takes the arguments that nn.Conv passes to its convolution.

    Only reverse-mode gradients are defined. In a shard_map, x and the kernel must vary
    over the same axes.

    Args:
      x: [B, H, W, C].
      kernel: [h, w, C, C'].
      strides: strides of rows and columns.
      padding: padding in one of the forms of `lax.conv_general_dilated`.
      lhs_dilation: must be 1, 1.
      rhs_dilation: dilation of the kernel.
      dimension_numbers: must be those of the layouts above, or None.
      feature_group_count: must be 1.
      precision: must be None.

    Returns:
      [B, H', W', C'].

    Raises:
      ValueError: an argument does not have its only supported value.
    """
    dimensions = lax.conv_dimension_numbers(x.shape, kernel.shape, _NHWC)
    if (
        any(n != 1 for n in (*lhs_dilation, feature_group_count))
        or dimension_numbers not in (None, dimensions)
        or precision is not None
    ):
        raise ValueError(
            "convolve supports no lhs_dilation, feature_group_count, other layouts or "
            "precision; use lax.conv_general_dilated"
        )
    if isinstance(padding, str):
        taps = (
            (n - 1) * d + 1 for n, d in zip(kernel.shape[:2], rhs_dilation, strict=True)
        )
        padding = lax.padtype_to_pads(x.shape[1:3], tuple(taps), strides, padding)
    padding = tuple((int(low), int(high)) for low, high in padding)
    return _convolve(x, kernel, tuple(strides), padding, tuple(rhs_dilation))


def _library(
    x: Array,
    kernel: Array,
    strides: _Pair,
    padding: _Padding,
    dilation: _Pair,
) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=strides,
        padding=padding,
        rhs_dilation=dilation,
        dimension_numbers=_NHWC,
    )


_convolve = jax.custom_vjp(_library, nondiff_argnums=(2, 3, 4))


def _forward(
    x: Array, kernel: Array, *options: Any
) -> tuple[Array, tuple[Array, Array]]:
    return _library(x, kernel, *options), (x, kernel)


def _backward(
    strides: _Pair,
    padding: _Padding,
    dilation: _Pair,
    saved: tuple[Array, Array],
    gradient: Array,
) -> tuple[Array, Array]:
    options: dict[str, Any] = dict(strides=strides, padding=padding, dilation=dilation)
    library = functools.partial(_library_gradients, **options)
    on_cpu = functools.partial(_cpu_gradients, **options)
    return lax.platform_dependent(*saved, gradient, cpu=on_cpu, default=library)


_convolve.defvjp(_forward, _backward)


def _library_gradients(
    x: Array, kernel: Array, gradient: Array, **options: Any
) -> tuple[Array, Array]:
    apply = functools.partial(_library, **options)
    return jax.vjp(apply, x, kernel)[1](gradient)


def _cpu_gradients(
    x: Array, kernel: Array, gradient: Array, **options: Any
) -> tuple[Array, Array]:
    of_x, of_kernel = _library_gradients(x, kernel, gradient, **options)
    if options["strides"] == (1, 1):
        of_x = _map_gradient(x, kernel, gradient, **options)
    if kernel.shape[-1] >= _CHANNELS and x.size and gradient.size:
        of_kernel = kernel_gradient(x, gradient, kernel.shape, **options)
    return of_x, of_kernel


def _map_gradient(
    x: Array,
    kernel: Array,
    gradient: Array,
    strides: _Pair,
    padding: _Padding,
    dilation: _Pair,
) -> Array:
    """Computes the gradient of the maps for stride 1, with the kernel reversed."""
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
    shape: tuple[int, ...],
    strides: _Pair,
    padding: _Padding,
    dilation: _Pair,
) -> Array:
    """Computes the gradient of a kernel, summed in float32 over blocks of rows.

    Args:
      x: input of the convolution, [B, H, W, C].
      gradient: gradient of its output, [B, H', W', C'].
      shape: shape of the kernel, (h, w, C, C').
      strides: strides of rows and columns.
      padding: zeros before and after rows and columns.
      dilation: dilation of the kernel.

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
    # The last block is filled up with rows of zeros.
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

    def product(block: Array) -> Array:
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

    def add(total: Array, block: Array) -> tuple[Array, None]:
        return total + product(block), None

    blocks = jnp.arange(1, batch // images * steps, dtype=jnp.int32)
    total, _ = lax.scan(add, product(jnp.zeros((), jnp.int32)), blocks)
    return total.T.reshape(shape).astype(x.dtype)


def _blocks(made: Sequence[int], kernel: Sequence[int]) -> tuple[int, int, int]:
    """Returns images per block, rows per block, and blocks per image.

    The gradient of the kernel is read and written once per block, so a block is at
    least half as large.

    Args:
      made: shape of the output.
      kernel: shape of the kernel.
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


def _patches(
    x: Array, sides: _Pair, taps: _Pair, strides: _Pair, dilation: _Pair
) -> Array:
    """Unfolds [B, H, W, C] to the inputs of each output, [B, *sides, h w C]."""
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
