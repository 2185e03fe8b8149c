"""What a network does to an image first: the form that its weights were trained on."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class Normalization(NamedTuple):
    """Channel order, mean and scale; the last two in that order, units of 0..255."""

    channel_order: str  # RGB or BGR.
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, model) -> "Normalization":
        """That of `config.model`."""
        return cls(model.channel_order, tuple(model.pixel_mean), tuple(model.pixel_std))

    def __call__(self, image: Array) -> Array:
        """float32 RGB [..., 3] in 0..255 -> float32 [..., 3] as the weights want it."""
        if self.channel_order == "BGR":
            image = image[..., ::-1]
        lead = (1,) * (image.ndim - 1)
        mean, std = (
            jnp.array(v, jnp.float32).reshape(*lead, 3) for v in (self.mean, self.std)
        )
        return (image - mean) / std

    @property
    def gray(self) -> tuple[float, ...]:
        """The RGB colour that becomes zero."""
        return self.mean[::-1] if self.channel_order == "BGR" else self.mean
