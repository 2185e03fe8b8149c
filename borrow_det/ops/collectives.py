"""Axes and rows of the devices that run a shard_map."""

import jax
import jax.numpy as jnp
from jax import Array


def device_axes() -> tuple[str, ...]:
    """Returns the mesh axes to sum over for all devices; none outside a shard_map."""
    return tuple(jax.sharding.get_abstract_mesh().manual_axes)


def first_row(rows: int) -> Array:
    """Returns the global index of a device's first row, int32 [].

    Args:
      rows: rows of the batch per device.
    """
    axes = device_axes()
    place = jax.lax.axis_index(axes) if axes else jnp.zeros((), jnp.int32)
    return rows * place


def zeros(like: jax.ShapeDtypeStruct) -> Array:
    """Returns zeros for the branch of a condition whose other branch is `like`.

    They vary over the same axes of a shard_map, as both branches must.
    """
    values = jnp.zeros(like.shape, like.dtype)
    if not device_axes():
        return values
    varying = tuple(like.manual_axis_type.varying)
    return jax.lax.pcast(values, varying, to="varying")
