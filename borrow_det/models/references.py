"""Reference images, whose deeper levels are source positions, too.

A tile of a large image, or a frame of a video, may show a small object without a larger
one of its class. Its descriptors then borrow from N other images as well: the source
positions of a level are the T of the image itself, followed by the T of each reference.
The same theta, phi and g embed them, so references add no parameters.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class ReferenceImages(NamedTuple):
    """The references of a batch of images, of the network's input size."""

    image: Array  # float32 [B, N, H, W, 3], RGB in [0, 255].
    mask: Array  # bool [B, N], false for an absent reference; its pixels are finite.


class ReferenceMaps(NamedTuple):
    """The levels of references that hold source positions."""

    levels: tuple[Array, ...]  # [B, N, H_m, W_m, C_m] each, shallow to deep.
    mask: Array  # bool [B, N], false for an absent reference; its maps are finite.

    def choose(self, indices: Sequence[int]) -> "ReferenceMaps":
        """Returns the references with some of their levels."""
        return self._replace(levels=tuple(self.levels[i] for i in indices))

    def map_levels(self, function: Callable[[Array], Array]) -> "ReferenceMaps":
        """Returns the references with a function applied to each of their levels."""
        return self._replace(levels=tuple(map(function, self.levels)))

    def present(self) -> Array:
        """Returns which source positions exist, bool [B, (1 + N) T].

        Those of the image itself, which come first, always do.
        """
        positions = sum(x.shape[2] * x.shape[3] for x in self.levels)
        images = jnp.pad(self.mask, ((0, 0), (1, 0)), constant_values=True)
        return jnp.repeat(images, positions, axis=1)


def deeper_maps(X: Sequence[Array], mask: Array) -> ReferenceMaps:
    """Returns the maps that references lend, from the levels of all of them.

    Args:
      X: levels of the network for B N images, [B N, H_n, W_n, C_n] each.
      mask: bool [B, N].
    """
    levels = tuple(x.reshape(*mask.shape, *x.shape[1:]) for x in X[1:])
    return ReferenceMaps(levels, mask)
