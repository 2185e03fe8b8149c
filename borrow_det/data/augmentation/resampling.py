"""Windows of images on the device: crop, flip and resize in one operation.

A *window* is the part of the image plane that fills the input of the network:
`[y_start, x_start, y_end, x_end]` relative to the image, which spans 0 to 1. A window
from right to left flips the image.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array

ENTIRE = (0.0, 0.0, 1.0, 1.0)  # The window of the entire image.
# Clipped boxes with a smaller side, in pixels of the input, are dropped.
MIN_BOX_SIDE = 1.0


def read_window(
    image: Array, image_size: Array, window: Array, input_size: tuple[int, int]
) -> tuple[Array, Array]:
    """Resamples a window of an image, with antialiasing.

    Args:
      image: uint8 [Hc, Wc, 3], the image at the top left of its canvas.
      image_size: int32 [2], height and width of the image in pixels.
      window: float32 [4] (see the module docstring).
      input_size: (height, width) of the result in pixels.

    Returns:
      (pixels float32 [3, h, w] in [0, 255], coverage float32 [h, w]: the share of each
      pixel inside the image). Channels are first, which suits the second product and
      pixelwise operations along rows.
    """
    size = image_size.astype(jnp.float32)
    (height, width), (canvas_height, canvas_width, _) = input_size, image.shape
    rows, row_cover = _weights(window[0], window[2], size[0], canvas_height, height)
    columns, column_cover = _weights(window[1], window[3], size[1], canvas_width, width)
    pixels = _resample(image, rows, columns)
    return pixels, row_cover[:, None] * column_cover[None, :]


def read_part(
    image: Array, corner: Array, size: Array, input_size: tuple[int, int]
) -> Array:
    """Resamples a part of an image as a separate image.

    Pixels outside the part have no influence, unlike in `read_window`.

    Args:
      image: uint8 [Hc, Wc, 3], the image at the top left of its canvas.
      corner: int32 [2], the part's first row and column.
      size: int32 [2], height and width of the part in pixels.
      input_size: (height, width) of the result in pixels.

    Returns:
      float32 [3, h, w] in [0, 255].
    """
    first, extent = corner.astype(jnp.float32), size.astype(jnp.float32)
    start, end = jnp.zeros((), jnp.float32), jnp.ones((), jnp.float32)
    rows, columns = (
        _weights(start, end, extent[axis], image.shape[axis], length, first[axis])[0]
        for axis, length in enumerate(input_size)
    )
    return _resample(image, rows, columns)


def resize_batch(image: Array, image_size: Array, input_size: tuple[int, int]) -> Array:
    """Resizes images, without their padding, to the input, with antialiasing.

    Args:
      image: uint8 [B, Hc, Wc, 3], each image at the top left of its canvas.
      image_size: int32 [B, 2], height and width of each image in pixels.
      input_size: (height, width) of the result in pixels.

    Returns:
      float32 [B, h, w, 3] in [0, 255].
    """
    window = jnp.array(ENTIRE, jnp.float32)

    def resize(image: Array, size: Array) -> Array:
        return read_window(image, size, window, input_size)[0]

    return jnp.moveaxis(jax.vmap(resize)(image, image_size), 1, -1)


def _resample(image: Array, rows: Array, columns: Array) -> Array:
    """Returns the products [3, h, w] of an image and weights [h, Hc] and [w, Wc]."""
    canvas_height, canvas_width, _ = image.shape
    height, width = rows.shape[0], columns.shape[0]
    # The default precision of a GPU would round pixels to 10 bits between the products.
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    pixels = image.astype(jnp.float32)
    # The product that shrinks the image more comes first, so that less is left to do.
    if height * canvas_width <= canvas_height * width:
        return product("ywc,xw->cyx", product("hwc,yh->ywc", pixels, rows), columns)
    return product("hxc,yh->cyx", product("hwc,xw->hxc", pixels, columns), rows)


def move_boxes(
    boxes: Array, window: Array, input_size: tuple[int, int]
) -> tuple[Array, Array]:
    """Transforms boxes from the image to a window.

    Args:
      boxes: float32 [G, 4], normalized to the image.
      window: [4] (see the module docstring).
      input_size: (height, width) of the resampled window in pixels.

    Returns:
      (boxes float32 [G, 4], normalized and clipped to the window; kept bool [G], true
      if the center is in the window and no side is shorter than a pixel).
    """
    start, extent = window[:2], window[2:] - window[:2]
    a = (boxes[:, :2] - start[None]) / extent[None]
    b = (boxes[:, 2:] - start[None]) / extent[None]
    moved = jnp.concatenate([jnp.minimum(a, b), jnp.maximum(a, b)], axis=-1)
    unit = jnp.array([[0.0, 0.0, 1.0, 1.0]], jnp.float32)
    clipped = jnp.clip(moved, 0, 1)
    side = (clipped[:, 2:] - clipped[:, :2]) * jnp.array([input_size], jnp.float32)
    # The margin keeps boxes whose sides are at the limit up to rounding.
    kept = contains_center(unit, moved)[0] & jnp.all(side > MIN_BOX_SIDE - 1e-3, axis=1)
    return clipped, kept


def mirrored(window: Array) -> Array:
    """Returns the window [4] that shows the same, mirrored horizontally."""
    return window[jnp.array([0, 3, 2, 1])]


def contains_center(windows: Array, boxes: Array) -> Array:
    """Returns true if window n contains the center of box g: bool [N, G]."""
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = (center[None] >= windows[:, None, :2]) & (
        center[None] <= windows[:, None, 2:]
    )
    return jnp.all(inside, axis=-1)


def _weights(
    start: Array,
    end: Array,
    size: Array,
    canvas: int,
    length: int,
    first: Array | None = None,
) -> tuple[Array, Array]:
    """Returns the weights of canvas pixels in output pixels along one axis.

    The kernel is the triangle of `jax.image.resize(method="linear", antialias=True)`,
    restricted to the pixels of the image: padding has no weight.

    Args:
      start: start of the window on this axis, relative to the image.
      end: end of the window; less than `start` for a flip.
      size: size of the image in pixels, float32.
      canvas: size of the canvas in pixels.
      length: size of the output in pixels.
      first: the canvas pixel that the image begins at; None for the first.

    Returns:
      (weights [length, canvas], which sum to 1 over the canvas for output pixels on the
      image; coverage [length], the share of each output pixel on the image, in [0, 1]).
    """
    step = (end - start) * size / length
    centers = start * size + (jnp.arange(length, dtype=jnp.float32) + 0.5) * step
    span = jnp.maximum(jnp.abs(step), 1e-6)
    pixels = jnp.arange(canvas, dtype=jnp.float32) + 0.5
    inside = pixels[None, :] < size
    if first is not None:
        pixels -= first
        inside = (pixels[None, :] > 0) & (pixels[None, :] < size)
    distance = jnp.abs(centers[:, None] - pixels[None, :]) / jnp.maximum(span, 1)
    weights = jnp.where(inside, jnp.maximum(1 - distance, 0), 0)
    weights = weights / jnp.maximum(jnp.sum(weights, axis=1, keepdims=True), 1e-6)
    low, high = centers - span / 2, centers + span / 2
    covered = jnp.minimum(high, size) - jnp.maximum(low, 0)
    return weights, jnp.clip(covered / span, 0, 1)
