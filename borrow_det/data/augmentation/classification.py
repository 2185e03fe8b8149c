"""Augmentation for classification, on the device: one window of each image.

Training uses a window of random area and aspect ratio (Szegedy et al., Going deeper
with convolutions (2015), section 6) and random flips; evaluation uses the center. The
canvas is resampled once (data/augmentation/resampling.py).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from borrow_det.data.augmentation.draws import between, log_between
from borrow_det.data.augmentation.photometric import distort
from borrow_det.data.augmentation.resampling import ENTIRE, mirrored, read_window


def augment_image(
    key: Array,
    image: Array,
    image_size: Array,
    augment: Any,
    input_size: tuple[int, int],
) -> Array:
    """Resamples a random window of one image, with photometric distortion.

    Args:
      key: random key of this example.
      image: uint8 [Hc, Wc, 3], the image at the top left of its canvas.
      image_size: int32 [2], height and width of the image in pixels.
      augment: config.augment (static); `photometric` 0 turns the distortion off.
      input_size: (height, width) of the result in pixels.

    Returns:
      float32 [h, w, 3] in [0, 255].
    """
    tries = augment.crop_tries
    # Sampled in one call, because a CPU takes half a second to compile each call.
    numbers = jax.random.uniform(key, (4 * tries + 1 + 9,))
    crops, flip, colors = jnp.split(numbers, [4 * tries, 4 * tries + 1])
    window = jnp.array(ENTIRE, jnp.float32)
    if augment.crop:
        window = random_crop(
            crops.reshape(tries, 4), image_size, augment.crop_area, augment.crop_aspect
        )
    flipped = mirrored(window)
    window = jnp.where(flip[0] < augment.flip, flipped, window)
    pixels, _ = read_window(image, image_size, window, input_size)
    if augment.photometric > 0:
        pixels = distort(colors, pixels, augment)
    return jnp.moveaxis(pixels, 0, -1)


def center_image(
    image: Array, image_size: Array, input_size: tuple[int, int], share: float
) -> Array:
    """Resamples the center of one image.

    The result is that of resizing the image, so that the input covers `share` of its
    shorter side, and then cropping the center.

    Args:
      image: uint8 [Hc, Wc, 3], the image at the top left of its canvas.
      image_size: int32 [2], height and width of the image in pixels.
      input_size: (height, width) of the result in pixels.
      share: share of the shorter side, in (0, 1].

    Returns:
      float32 [h, w, 3] in [0, 255].
    """
    window = center_window(image_size, input_size, share)
    pixels, _ = read_window(image, image_size, window, input_size)
    return jnp.moveaxis(pixels, 0, -1)


def center_window(
    image_size: Array, input_size: tuple[int, int], share: float
) -> Array:
    """Returns the window [4] of `center_image`, relative to the image."""
    ratio = jnp.array(input_size, jnp.float32) / image_size.astype(jnp.float32)
    extent = share * ratio / jnp.max(ratio)
    return jnp.concatenate([(1 - extent) / 2, (1 + extent) / 2])


def random_crop(
    draws: Array,
    image_size: Array,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> Array:
    """Returns the first candidate inside the image, or the largest crop at its center.

    The area of a candidate relative to the image is uniform in `area`. The logarithm of
    its aspect ratio (width over height, in pixels) is uniform in that of `aspect`.

    Args:
      draws: [T, 4] in [0, 1): area, aspect ratio, y and x of each candidate.
      image_size: int32 [2], height and width in pixels.
      area: smallest and largest area.
      aspect: smallest and largest aspect ratio.

    Returns:
      A window [4], relative to the image. The crop at the center has the aspect ratio
      of the image, clipped to `aspect`.
    """
    height, width = image_size.astype(jnp.float32)
    shares = between(draws[:, 0], *area)
    # Relative to the image, a crop with the aspect ratio of the image is square.
    ratios = log_between(draws[:, 1], aspect) * height / width
    sides = jnp.stack([jnp.sqrt(shares / ratios), jnp.sqrt(shares * ratios)], axis=-1)
    start = draws[:, 2:] * (1 - sides)
    candidates = jnp.concatenate([start, start + sides], axis=-1)
    fits = jnp.all(sides <= 1, axis=-1)

    ratio = jnp.clip(width / height, *aspect) * height / width
    extent = jnp.stack([jnp.minimum(1 / ratio, 1), jnp.minimum(ratio, 1)])
    middle = jnp.concatenate([(1 - extent) / 2, (1 + extent) / 2])
    return jnp.where(jnp.any(fits), candidates[jnp.argmax(fits)], middle)
