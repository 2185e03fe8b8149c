"""The same convolution and pooling, of maps whose columns stand in pairs.

VGG's first stage has 64 channels. They leave three quarters of a 128 x 128 matrix unit
idle, and half of each row of a TPU's memory. Of two neighbouring columns as one, with
the channels of both, a 3x3 convolution is one with twice the channels and half the
positions; half of its kernel is zeros, so that it is twice the arithmetic where there
is no such unit.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax


def paired(x: Array) -> Array:
    """[B, H, W, C], W even, -> [B, H, W / 2, 2 C], the left column's channels first."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height, width // 2, 2 * channels)


def single(x: Array) -> Array:
    """The inverse of `paired`."""
    batch, height, pairs, channels = x.shape
    return x.reshape(batch, height, 2 * pairs, channels // 2)


def convolve(x: Array, kernel: Array, bias: Array, dtype: jnp.dtype) -> Array:
    """A 3x3 convolution with a padding of one.

    Args:
      x: pairs, [B, H, P, 2 C].
      kernel: [3, 3, C, C'], of single columns.
      bias: [C'].
      dtype: computes in it.

    Returns:
      Pairs, [B, H, P, 2 C'].
    """
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=dtype)
    y = lax.conv_general_dilated(
        x,
        _kernel_of_pairs(kernel),
        window_strides=(1, 1),
        padding=((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y + jnp.tile(bias, 2)[None, None, None]


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


def max_pool(x: Array) -> Array:
    """`vgg.max_pool`: pairs [B, H, P, 2 C] -> single columns [B, ceil(H / 2), P, C]."""
    odd = ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))
    x = jnp.pad(x, odd, constant_values=-jnp.inf)
    x = jnp.maximum(x[:, ::2], x[:, 1::2])
    left, right = jnp.split(x, 2, axis=-1)
    return jnp.maximum(left, right)
