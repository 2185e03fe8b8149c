"""Windows of images, read on the device: every crop, flip and resize is one.

A *window* is the part of the image's plane, `[y_start, x_start, y_end, x_end]` in
units of the image (0 to 1 is the image itself), that fills the network's input. One
that runs from right to left flips.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array


def read_window(
    image: Array, image_size: Array, window: Array, input_size: tuple[int, int]
) -> tuple[Array, Array]:
    """Reads a window from a canvas, antialiased.

    Args:
      image: uint8 [Hc, Wc, 3], the image at the top left of its canvas.
      image_size: int32 [2], its height and width in pixels.
      window: [4], see the module's docstring.
      input_size: (height, width) of the result in pixels.

    Returns:
      (float32 [3, h, w] in [0, 255], coverage [h, w]: the part of each pixel that
      lies on the image). Channels go first because the second product wants them out
      of the way, and pixelwise work runs along rows.
    """
    size = image_size.astype(jnp.float32)
    (height, width), (canvas_height, canvas_width, _) = input_size, image.shape
    rows, row_cover = _weights(window[0], window[2], size[0], canvas_height, height)
    columns, column_cover = _weights(window[1], window[3], size[1], canvas_width, width)
    # HIGHEST: a GPU's default would round pixels to 10 bits between the two products.
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    pixels = image.astype(jnp.float32)
    # The product that shortens most goes first, and leaves less to the other.
    if height * canvas_width <= canvas_height * width:
        pixels = product("ywc,xw->cyx", product("hwc,yh->ywc", pixels, rows), columns)
    else:
        pixels = product("hxc,yh->cyx", product("hwc,xw->hxc", pixels, columns), rows)
    return pixels, row_cover[:, None] * column_cover[None, :]


def _weights(start, end, size, canvas, length):
    """How one axis of the output is made of the pixels of the canvas.

    The triangle kernel of `jax.image.resize(method="linear", antialias=True)`, over
    the image's own pixels alone: the padding behind them has no weight.

    Args:
      start: of the window along this axis, in units of the image.
      end: of the window; less than `start` where it flips.
      size: of the image in pixels, float32.
      canvas: of the canvas in pixels.
      length: of the output in pixels.

    Returns:
      Weights [length, canvas] that sum to 1 over the canvas where the output sees the
      image, and the covered part [length] of each output pixel, in [0, 1].
    """
    step = (end - start) * size / length
    centers = start * size + (jnp.arange(length, dtype=jnp.float32) + 0.5) * step
    span = jnp.maximum(jnp.abs(step), 1e-6)
    pixels = jnp.arange(canvas, dtype=jnp.float32) + 0.5
    distance = jnp.abs(centers[:, None] - pixels[None, :]) / jnp.maximum(span, 1)
    weights = jnp.where(pixels[None, :] < size, jnp.maximum(1 - distance, 0), 0)
    weights = weights / jnp.maximum(jnp.sum(weights, axis=1, keepdims=True), 1e-6)
    low, high = centers - span / 2, centers + span / 2
    covered = jnp.minimum(high, size) - jnp.maximum(low, 0)
    return weights, jnp.clip(covered / span, 0, 1)
