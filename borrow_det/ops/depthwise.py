"""Depthwise convolution: a separate kernel for every channel."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import Array, lax

_ONE_FORM = contextvars.ContextVar("one_form", default=False)


@contextlib.contextmanager
def one_form() -> Iterator[None]:
    """Uses the grouped convolution on every platform within the context.

    For converters to formats that do not know JAX's platforms.
    """
    token = _ONE_FORM.set(True)
    try:
        yield
    finally:
        _ONE_FORM.reset(token)


def depthwise_convolve(x: Array, kernel: Array) -> Array:
    """Convolves every channel by its own kernel, with stride 1 and zero padding.

    On CPUs it is a sum of shifted maps, which takes a fraction of the time of XLA's
    grouped convolution. Only reverse-mode gradients are defined.

    Args:
      x: [B, H, W, C].
      kernel: [h, w, C], of odd sides.

    Returns:
      [B, H, W, C].
    """
    return _convolve(x, kernel)


def _forward_pass(x: Array, kernel: Array) -> Array:
    if _ONE_FORM.get():
        return _grouped(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=_shifted, default=_grouped)


_convolve = jax.custom_vjp(_forward_pass)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _forward_pass(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    return lax.platform_dependent(
        *saved, gradient, cpu=_shifted_gradients, default=_grouped_gradients
    )


_convolve.defvjp(_forward, _backward)


def _grouped(x: Array, kernel: Array) -> Array:
    rows, columns, channels = kernel.shape
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        window_strides=(1, 1),
        padding=((rows // 2, rows // 2), (columns // 2, columns // 2)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
    )


def _grouped_gradients(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
    return jax.vjp(_grouped, x, kernel)[1](gradient)


def _padded(x: Array, kernel: Array) -> Array:
    rows, columns = (n // 2 for n in kernel.shape[:2])
    return jnp.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)))


def _shifted(x: Array, kernel: Array) -> Array:
    """Sums maps shifted by each tap, which XLA fuses into one loop."""
    height, width = x.shape[1:3]
    padded = _padded(x, kernel)
    total = jnp.zeros(x.shape, jnp.float32)
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            part = padded[:, i : i + height, j : j + width]
            tap = kernel[i, j].astype(jnp.float32)
            total += part.astype(jnp.float32) * tap[None, None, None]
    return total.astype(x.dtype)


def _shifted_gradients(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
    height, width = x.shape[1:3]
    padded = _padded(x, kernel)

    def of_row(i: Array) -> Array:
        part = lax.dynamic_slice_in_dim(padded, i, height, axis=1)
        products = [
            jnp.einsum(
                "bhwc,bhwc->c",
                part[:, :, j : j + width],
                gradient,
                preferred_element_type=jnp.float32,
            )
            for j in range(kernel.shape[1])
        ]
        return jnp.stack(products)

    of_kernel = lax.map(of_row, jnp.arange(kernel.shape[0], dtype=jnp.int32))
    of_x = _shifted(gradient, kernel[::-1, ::-1])
    return of_x, of_kernel.astype(kernel.dtype)
