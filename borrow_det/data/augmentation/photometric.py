"""Photometric distortion on the device: brightness, contrast, saturation and hue."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from borrow_det.data.augmentation.draws import between


def distort(draws: Array, pixels: Array, augment: Any) -> Array:
    """Applies SSD's photometric distortion to one image.

    Brightness, contrast, saturation and hue change with probability
    `augment.photometric` each. Contrast changes before saturation and hue or after
    them.

    Args:
      draws: [9] in [0, 1): the choice and then the amount of each of the four changes,
        and the order of contrast.
      pixels: float32 [3, h, w], RGB in [0, 255].
      augment: config.augment.

    Returns:
      float32 [3, h, w] in [0, 255].
    """
    on = draws[:4] < augment.photometric
    brightness = between(draws[4], -augment.brightness, augment.brightness)
    contrast = jnp.where(on[1], between(draws[5], *augment.contrast), 1)
    saturation = jnp.where(on[2], between(draws[6], *augment.saturation), 1)
    hue = jnp.where(on[3], between(draws[7], -augment.hue, augment.hue), 0)
    contrast_first = draws[8] < 0.5

    pixels = jnp.clip(pixels + jnp.where(on[0], brightness, 0), 0, 255)
    pixels = jnp.clip(pixels * jnp.where(contrast_first, contrast, 1), 0, 255)
    pixels = shift_colors(pixels, saturation, hue)
    return jnp.clip(pixels * jnp.where(contrast_first, 1, contrast), 0, 255)


def shift_colors(pixels: Array, saturation: Array, hue: Array) -> Array:
    """Scales the saturation and rotates the hue, in HSV.

    Args:
      pixels: float32 [3, ...], RGB, not negative.
      saturation: factor; the product is clipped to full saturation.
      hue: rotation in degrees.

    Returns:
      float32 [3, ...]; the value (largest channel) of a pixel does not change.
    """
    red, green, blue = pixels
    value = jnp.max(pixels, axis=0)
    chroma = value - jnp.min(pixels, axis=0)
    scale = 1 / jnp.where(chroma > 0, chroma, 1)  # The hue of gray is 0, not NaN.
    sector = jnp.where(
        value == red,
        (green - blue) * scale,
        jnp.where(value == green, 2 + (blue - red) * scale, 4 + (red - green) * scale),
    )
    sector = sector + hue / 60  # 0 is red, 2 green, 4 blue.
    chroma = jnp.minimum(chroma * saturation, value)

    def channel(offset: int) -> Array:
        position = sector + offset
        position = position - 6 * jnp.floor(position / 6)
        distance = jnp.minimum(position, 4 - position)
        return value - chroma * jnp.clip(distance, 0, 1)

    return jnp.stack([channel(5), channel(3), channel(1)])
