"""Random values from uniform samples in [0, 1)."""

import jax.numpy as jnp
from jax import Array


def between(draw: Array, low: float | Array, high: float | Array) -> Array:
    """Scales samples from [0, 1) to [low, high)."""
    return low + draw * (high - low)


def log_between(draw: Array, limits: tuple[float, float]) -> Array:
    """Returns values between limits above 0, uniform in the logarithm."""
    low, high = jnp.log(jnp.array(limits, jnp.float32))
    return jnp.exp(between(draw, low, high))


def one_of(draw: Array, mask: Array) -> Array:
    """Returns the index of a true value of a mask [G], each equally probable.

    It is 0 if no value is true.
    """
    order = jnp.cumsum(mask.astype(jnp.float32))
    return jnp.argmax(order > jnp.floor(draw * order[-1]))
