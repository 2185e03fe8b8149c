"""Axes and rows of the devices that run a shard_map together."""

import jax
import jax.numpy as jnp
from jax import Array


def device_axes() -> tuple[str, ...]:
    """Over which to sum, in `on_each_device`, to have all devices' rows; else none."""
    return tuple(jax.sharding.get_abstract_mesh().manual_axes)


def first_row(rows: int) -> Array:
    """Where a device's `rows` begin in the global batch, int32 []; else 0."""
    axes = device_axes()
    place = jax.lax.axis_index(axes) if axes else jnp.zeros((), jnp.int32)
    return rows * place
