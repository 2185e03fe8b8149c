"""Augmentation of classification, on the device: a window of each image.

In training a part of random area and aspect ratio (Szegedy et al., Going deeper with
convolutions (2015), section 6), flipped or not; in evaluation the centre. The window
is read from the canvas once (data/augmentation/resampling.py).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from borrow_det.data.augmentation.detection import between, distort
from borrow_det.data.augmentation.resampling import read_window


def augment_image(
    key: Array,
    image: Array,
    image_size: Array,
    augment: Any,
    input_size: tuple[int, int],
) -> Array:
    """Draws a window of one image, and colours where `augment.photometric` says so.

    Args:
      key: of this example.
      image: uint8 [Hc, Wc, 3], the image at the top left of its canvas.
      image_size: int32 [2], its height and width in pixels.
      augment: the config group `augment` (static).
      input_size: (height, width) of the result in pixels.

    Returns:
      float32 [h, w, 3] in [0, 255].
    """
    tries = augment.crop_tries
    # In one call, because each takes a CPU half a second to compile.
    numbers = jax.random.uniform(key, (4 * tries + 1 + 9,))
    crops, flip, colors = jnp.split(numbers, [4 * tries, 4 * tries + 1])
    window = jnp.array([0.0, 0.0, 1.0, 1.0], jnp.float32)
    if augment.crop:
        window = random_crop(
            crops.reshape(tries, 4), image_size, augment.crop_area, augment.crop_aspect
        )
    flipped = window[jnp.array([0, 3, 2, 1])]
    window = jnp.where(flip[0] < augment.flip, flipped, window)
    pixels, _ = read_window(image, image_size, window, input_size)
    if augment.photometric > 0:
        pixels = distort(colors, pixels, augment)
    return jnp.moveaxis(pixels, 0, -1)


def center_image(
    image: Array, image_size: Array, input_size: tuple[int, int], share: float
) -> Array:
    """The middle of one image: `share` of its shorter side, in the input's shape.

    As if the image were resized until the input covers `share` of it, and the input
    were cut from the middle. Arguments and result as of `augment_image`.
    """
    window = center_window(image_size, input_size, share)
    pixels, _ = read_window(image, image_size, window, input_size)
    return jnp.moveaxis(pixels, 0, -1)


def center_window(
    image_size: Array, input_size: tuple[int, int], share: float
) -> Array:
    """The window [4] of `center_image`, in units of the image."""
    ratio = jnp.array(input_size, jnp.float32) / image_size.astype(jnp.float32)
    extent = share * ratio / jnp.max(ratio)
    return jnp.concatenate([(1 - extent) / 2, (1 + extent) / 2])


def random_crop(
    draws: Array,
    image_size: Array,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> Array:
    """The first candidate that lies in the image, or the largest crop in its middle.

    A candidate has a share of the image's area, uniform in `area`, and a width over
    height in pixels whose logarithm is uniform in that of `aspect`.

    Args:
      draws: [T, 4] in [0, 1): area, aspect, y and x of each candidate.
      image_size: int32 [2], height and width in pixels.
      area: smallest and largest.
      aspect: smallest and largest.

    Returns:
      A window [4] in units of the image. The last resort has the image's aspect ratio,
      or the end of `aspect` that is nearest to it.
    """
    height, width = image_size.astype(jnp.float32)
    shares = between(draws[:, 0], *area)
    low, high = jnp.log(jnp.array(aspect, jnp.float32))
    # In units of the image a crop of the image's own aspect ratio is square.
    ratios = jnp.exp(between(draws[:, 1], low, high)) * height / width
    sides = jnp.stack([jnp.sqrt(shares / ratios), jnp.sqrt(shares * ratios)], axis=-1)
    start = draws[:, 2:] * (1 - sides)
    candidates = jnp.concatenate([start, start + sides], axis=-1)
    fits = jnp.all(sides <= 1, axis=-1)

    ratio = jnp.clip(width / height, *aspect) * height / width
    extent = jnp.stack([jnp.minimum(1 / ratio, 1), jnp.minimum(ratio, 1)])
    middle = jnp.concatenate([(1 - extent) / 2, (1 + extent) / 2])
    return jnp.where(jnp.any(fits), candidates[jnp.argmax(fits)], middle)
