"""Position embeddings of a grid of patches, interpolated to another grid."""

import math

import jax.numpy as jnp
import numpy as np
from jax import Array


def resample(embedding: Array, grid: tuple[int, int]) -> Array:
    """Interpolates the position embeddings of a square grid to another grid.

    Bicubic (Keys, a = -0.5), with a wider kernel for a smaller grid against aliasing,
    as Pillow resizes images, and PyTorch with `antialias=True`.

    Args:
      embedding: [n * n, C], in the order of rows.
      grid: (rows, columns) of the other grid.

    Returns:
      [rows * columns, C]; the embedding itself if the grid is the same.
    """
    side = math.isqrt(len(embedding))
    if grid == (side, side):
        return embedding
    square = embedding.reshape(side, side, -1)
    rows, columns = (jnp.asarray(_weights(side, n), embedding.dtype) for n in grid)
    resampled = jnp.einsum("yh,xw,hwc->yxc", rows, columns, square)
    return resampled.reshape(-1, embedding.shape[-1])


def _weights(given: int, wanted: int) -> np.ndarray:
    """Returns the weights [wanted, given] of cubic interpolation along an axis."""
    scale = given / wanted
    width = max(scale, 1.0)  # Width of the kernel, in given positions.
    centers = (np.arange(wanted) + 0.5) * scale - 0.5
    weights = _keys((np.arange(given)[None] - centers[:, None]) / width)
    return weights / weights.sum(axis=1, keepdims=True)


def _keys(x: np.ndarray) -> np.ndarray:
    """Computes Keys' cubic kernel for a = -0.5."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
