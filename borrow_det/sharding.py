"""Where arrays lie: one named mesh, batches split over it, parameters replicated."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from borrow_det.errors import InputError


def make_mesh(axes) -> Mesh:
    """The mesh over all devices; `axes` is `config.mesh`, -1 stands for the rest.

    Raises:
      InputError: the sizes do not multiply to the number of devices.
    """
    devices = jax.device_count()
    sizes = dict(axes)
    known = int(np.prod([size for size in sizes.values() if size != -1]))
    shape = [devices // known if size == -1 else size for size in sizes.values()]
    if int(np.prod(shape)) != devices:
        raise InputError(f"mesh {sizes} does not fit the {devices} devices there are")
    return jax.make_mesh(shape, tuple(sizes), (AxisType.Auto,) * len(shape))


def replicated(mesh: Mesh) -> NamedSharding:
    """Each device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis is split over the data axis."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes global arrays of this process's rows of a batch."""
    sharding = split_batch(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }
