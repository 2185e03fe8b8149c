"""The same layers as elsewhere, of maps whose columns stand in pairs.

VGG's first stage has 64 channels. They leave three quarters of a 128 x 128 matrix unit
idle, and half of each row of a TPU's memory. Of two neighbouring columns as one, with
the channels of both, a 3x3 convolution is one with twice the channels and half the
positions; half of its kernel is zeros, so that it is twice the arithmetic where there
is no such unit.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from borrow_det.ops.convolution import convolve as _convolve


def paired(x: Array) -> Array:
    """[B, H, W, C], W even, -> [B, H, W / 2, 2 C], the left column's channels first."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height, width // 2, 2 * channels)


def single(x: Array) -> Array:
    """The inverse of `paired`."""
    batch, height, pairs, channels = x.shape
    return x.reshape(batch, height, 2 * pairs, channels // 2)


def convolve(x: Array, kernel: Array, bias: Array | None, dtype: Any) -> Array:
    """A 3x3 convolution with a padding of one.

    Args:
      x: pairs, [B, H, P, 2 C].
      kernel: [3, 3, C, C'], of single columns.
      bias: [C'], or None.
      dtype: computes in it.

    Returns:
      Pairs, [B, H, P, 2 C'].
    """
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=dtype)
    y = _convolve(x, _kernel_of_pairs(kernel))
    return y if bias is None else y + _of_both(bias)


def _kernel_of_pairs(kernel: Array) -> Array:
    """[3, 3, C, C'] -> [3, 3, 2 C, 2 C']."""
    rows, _, taken, made = kernel.shape
    # Of the six columns of three pairs the left one in the middle is made of those
    # from the second to the fourth, and the right one of the next three.
    left, right = (
        jnp.pad(kernel, ((0, 0), margin, (0, 0), (0, 0))) for margin in ((1, 2), (2, 1))
    )
    both = jnp.stack([left, right], axis=3)
    return both.reshape(rows, 3, 2 * taken, 2 * made)


def _of_both(values: Array) -> Array:
    """[C] -> [1, 1, 1, 2 C], for both columns."""
    return jnp.tile(values, 2)[None, None, None]


class BatchNorm(nn.Module):
    """`nn.BatchNorm` for pairs: parameters and statistics are those of the channels."""

    use_running_average: bool
    momentum: float
    dtype: Any
    axis_name: Any = None  # Of the devices whose batches are one.
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, P, 2 C] -> [B, H, P, 2 C]."""
        shape = (x.shape[-1] // 2,)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        running = (
            self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32),
            self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32),
        )
        x = x.astype(jnp.float32)
        if self.use_running_average:
            mean, variance = (variable.value for variable in running)
        else:
            mean, variance = self._statistics(x)
            if not self.is_initializing():
                kept = self.momentum
                for variable, new in zip(running, (mean, variance), strict=True):
                    variable.value = kept * variable.value + (1 - kept) * new
        factor = scale * lax.rsqrt(variance + self.epsilon)
        y = (x - _of_both(mean)) * _of_both(factor) + _of_both(bias)
        return y.astype(self.dtype)

    def _statistics(self, x):
        moments = jnp.stack(
            [x.mean(axis=(0, 1, 2)), jnp.square(x).mean(axis=(0, 1, 2))]
        )
        moments = moments.reshape(2, 2, -1).mean(axis=1)
        if self.axis_name is not None and not self.is_initializing():
            moments = lax.pmean(moments, self.axis_name)
        mean, of_squares = moments
        return mean, jnp.maximum(of_squares - jnp.square(mean), 0)


def max_pool(x: Array) -> Array:
    """`vgg.max_pool`: pairs [B, H, P, 2 C] -> single columns [B, ceil(H / 2), P, C]."""
    odd = ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))
    x = jnp.pad(x, odd, constant_values=-jnp.inf)
    x = jnp.maximum(x[:, ::2], x[:, 1::2])
    left, right = jnp.split(x, 2, axis=-1)
    return jnp.maximum(left, right)
