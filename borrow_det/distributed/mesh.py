"""Where arrays lie: one named mesh over the devices of every process.

The mesh has two axes. A batch is split over both; parameters and the optimizer's state
are replicated over `data`, and split over `fsdp` where that is larger than 1. One code
path serves one CPU, several simulated devices, several processes, GPUs and TPU slices.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from borrow_det.errors import InputError

AXES = ("data", "fsdp")
# Smaller arrays (biases, scales, statistics) are replicated on any mesh: splitting them
# saves nothing and costs a collective each.
_MIN_SPLIT_SIZE = 2**14


def make_mesh(axes, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over all devices.

    Devices come slice by slice, and within a slice process by process. So each process
    holds consecutive rows of a batch, whatever the topology, and `fsdp`, the inner
    axis, stays within a slice (its collectives are the frequent ones, and the network
    between slices is slow): the hybrid mesh of several slices.

    Args:
      axes: `config.mesh`: the sizes of AXES, -1 standing for what is left.
      devices: those of all processes by default.

    Raises:
      InputError: the axes are others, or their sizes do not fit the devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = _shape(dict(axes), len(devices))
    slices = {_slice(device) for device in devices}
    if len(devices) // len(slices) % shape[1]:
        raise InputError(
            f"mesh.fsdp is {shape[1]}; it must divide the "
            f"{len(devices) // len(slices)} devices of each of the {len(slices)} slices"
        )
    ordered = sorted(devices, key=lambda d: (_slice(d), d.process_index, d.id))
    return Mesh(np.array(ordered).reshape(shape), AXES, (AxisType.Auto,) * len(AXES))


def _shape(sizes, devices):
    """The sizes of AXES, none of them -1."""
    if set(sizes) != set(AXES):
        raise InputError(f"mesh has the axes {sorted(sizes)}; it must have {AXES}")
    given = [sizes[axis] for axis in AXES]
    known = max(1, int(np.prod([size for size in given if size != -1])))
    shape = [devices // known if size == -1 else size for size in given]
    if min(shape) < 1 or int(np.prod(shape)) != devices:
        raise InputError(f"mesh {sizes} does not fit the {devices} devices there are")
    return shape


def _slice(device):
    """The TPU slice that a device belongs to; other devices have none."""
    return getattr(device, "slice_index", None) or 0


def replicated(mesh: Mesh) -> NamedSharding:
    """Each device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis is split over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def split_state(mesh: Mesh, tree: Any) -> Any:
    """The shardings of parameters and of what follows them, leaf by leaf.

    By shape alone, so that a parameter, its average and its momentum lie alike: the
    largest axis that `fsdp` divides (the last of equals) is split over it.
    """
    parts = mesh.shape["fsdp"]

    def one(leaf):
        divisible = [i for i, n in enumerate(leaf.shape) if n % parts == 0]
        if parts == 1 or leaf.size < _MIN_SPLIT_SIZE or not divisible:
            return replicated(mesh)
        axis = max(divisible, key=lambda i: (leaf.shape[i], i))
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, "fsdp"))

    return jax.tree.map(one, tree)


def on_each_device(
    function: Callable, mesh: Mesh, split: Sequence[bool], out_split: bool
) -> Callable:
    """A function of arrays of all devices that each runs by itself, on its own rows.

    If one program were made for all of them, a loop over examples would ask them all
    before every pass whether one goes on, and each pass of a sum would be summed over
    them. What is to be shared is so by `device_axes`.

    Args:
      function: of a device's part of each argument.
      mesh: the run's.
      split: of each argument, whether its leading axis is split; else it is whole.
      out_split: the same of the result. One that is whole must be equal everywhere.
    """
    spec = {True: PartitionSpec(AXES), False: PartitionSpec()}
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=tuple(spec[each] for each in split),
        out_specs=spec[out_split],
    )


def put(tree: Any, shardings: Any) -> Any:
    """Makes global arrays of values that every process has whole."""

    def one(value, sharding):
        value = np.asarray(value)
        return jax.make_array_from_callback(value.shape, sharding, value.__getitem__)

    return jax.tree.map(one, tree, shardings)


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes global arrays of this process's rows of a batch."""
    sharding = split_batch(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }
