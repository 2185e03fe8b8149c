"""Maps whose neighbouring columns are stored as one column with twice the channels.

The first stage of VGG has 64 channels. They leave three quarters of a 128 x 128 matrix
unit idle, and half of each row of a TPU's memory. On pairs of columns, a 3x3
convolution has twice the channels and half the positions. Half of its kernel is zeros:
without such a matrix unit it is twice the arithmetic.

`ColumnPairs` marks a map that is stored in this way. The layers of layers.py compute
the same function of either kind of map, with the same parameters.
"""

from typing import Any, TypeVar, final

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jax import Array, lax

from borrow_det.ops.convolution import convolve as convolve_columns


@final
@struct.dataclass
class ColumnPairs:
    """A map [B, H, W, C] stored as pairs of columns.

    Attributes:
      array: [B, H, W / 2, 2 C], the channels of the left column first.
    """

    array: Array

    @classmethod
    def from_map(cls, x: Array) -> "ColumnPairs":
        """Stores a map [B, H, W, C] of an even width W."""
        batch, height, width, channels = x.shape
        return cls(x.reshape(batch, height, width // 2, 2 * channels))

    def to_map(self) -> Array:
        """Returns the map [B, H, W, C]."""
        batch, height, pairs, channels = self.array.shape
        return self.array.reshape(batch, height, 2 * pairs, channels // 2)

    @property
    def channels(self) -> int:
        """C, the channels of one column."""
        return self.array.shape[-1] // 2


# A layer returns the kind of map that it is given.
Map = TypeVar("Map", Array, ColumnPairs)


def convolve(x: ColumnPairs, kernel: Array, bias: Array | None = None) -> ColumnPairs:
    """Convolves a map [B, H, W, C] with a 3x3 kernel, padded by one on each side.

    Args:
      x: the map.
      kernel: [3, 3, C, C'], the kernel for single columns.
      bias: [C'], or None.

    Returns:
      The map [B, H, W, C'].
    """
    y = convolve_columns(x.array, _pair_kernel(kernel))
    return ColumnPairs(y if bias is None else y + _per_column(bias))


def _pair_kernel(kernel: Array) -> Array:
    """Returns the kernel [3, 3, 2 C, 2 C'] for pairs, from [3, 3, C, C']."""
    rows, _, inputs, outputs = kernel.shape
    # Of the six columns of three pairs, the left one of the middle pair depends on the
    # second to the fourth, and the right one on the third to the fifth.
    left, right = (
        jnp.pad(kernel, ((0, 0), margin, (0, 0), (0, 0))) for margin in ((1, 2), (2, 1))
    )
    both = jnp.stack([left, right], axis=3)
    return both.reshape(rows, 3, 2 * inputs, 2 * outputs)


def _per_column(values: Array) -> Array:
    """Repeats values [C] for both columns: [1, 1, 1, 2 C]."""
    return jnp.tile(values, 2)[None, None, None]


class BatchNorm(nn.Module):
    """`nn.BatchNorm` for pairs, with one parameter and statistic per channel."""

    use_running_average: bool
    momentum: float
    dtype: Any
    axis_name: Any = None  # Axes of the devices that share a batch.
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: ColumnPairs) -> ColumnPairs:
        """Normalizes a map [B, H, W, C]."""
        shape = (x.channels,)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        running = (
            self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32),
            self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32),
        )
        values = x.array.astype(jnp.float32)
        if self.use_running_average:
            mean, variance = (variable.value for variable in running)
        else:
            mean, variance = self._statistics(values)
            if not self.is_initializing():
                kept = self.momentum
                for variable, new in zip(running, (mean, variance), strict=True):
                    variable.value = kept * variable.value + (1 - kept) * new
        factor = scale * lax.rsqrt(variance + self.epsilon)
        y = (values - _per_column(mean)) * _per_column(factor) + _per_column(bias)
        return ColumnPairs(y.astype(self.dtype))

    def _statistics(self, values: Array) -> tuple[Array, Array]:
        """Returns mean and variance [C] over the batch of all devices."""
        moments = jnp.stack(
            [values.mean(axis=(0, 1, 2)), jnp.square(values).mean(axis=(0, 1, 2))]
        )
        moments = moments.reshape(2, 2, -1).mean(axis=1)
        if self.axis_name is not None and not self.is_initializing():
            moments = lax.pmean(moments, self.axis_name)
        mean, mean_of_squares = moments
        return mean, jnp.maximum(mean_of_squares - jnp.square(mean), 0)


def max_pool(x: ColumnPairs) -> Array:
    """Pools a map [B, H, W, C] as `layers.max_pool`, to [B, ceil(H / 2), W / 2, C]."""
    values = x.array
    odd = ((0, 0), (0, values.shape[1] % 2), (0, 0), (0, 0))
    values = jnp.pad(values, odd, constant_values=-jnp.inf)
    values = jnp.maximum(values[:, ::2], values[:, 1::2])
    left, right = jnp.split(values, 2, axis=-1)
    return jnp.maximum(left, right)
