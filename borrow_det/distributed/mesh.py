"""One named mesh over the devices of all processes, and the shardings on it.

The mesh has two axes. A batch is sharded over both; parameters and the optimizer's
state are replicated over `data`, and sharded over `fsdp` if that is larger than 1. One
code path serves one CPU, several simulated devices, several processes, GPUs and TPU
slices.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from borrow_det.errors import InputError

AXES = ("data", "fsdp")
# Smaller arrays (biases, scales, statistics) are replicated on any mesh: sharding them
# saves nothing and costs a collective each.
_MIN_SHARDED_SIZE = 2**14


def make_mesh(
    axes: Mapping[str, int], devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Builds the mesh over all devices.

    Devices are ordered by slice, and within a slice by process. Each process therefore
    holds consecutive rows of a batch in any topology, and `fsdp`, the inner axis, stays
    within a slice (its collectives are the frequent ones, and the network between
    slices is slow): the hybrid mesh of several slices.

    Args:
      axes: `config.mesh`: the sizes of AXES; -1 means the remaining devices.
      devices: default: the devices of all processes.

    Raises:
      InputError: the axes are not AXES, or their sizes do not fit the devices.
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


def _shape(sizes: dict[str, int], devices: int) -> list[int]:
    """Returns the sizes of AXES, with -1 replaced."""
    if set(sizes) != set(AXES):
        raise InputError(f"mesh has the axes {sorted(sizes)}; it must have {AXES}")
    given = [sizes[axis] for axis in AXES]
    known = max(1, int(np.prod([size for size in given if size != -1])))
    shape = [devices // known if size == -1 else size for size in given]
    if min(shape) < 1 or int(np.prod(shape)) != devices:
        raise InputError(
            f"mesh {sizes} does not fit {devices} devices: the sizes must multiply to "
            "that number, and one of them may be -1"
        )
    return shape


def _slice(device: jax.Device) -> int:
    """Returns the TPU slice of a device, 0 for other devices."""
    return getattr(device, "slice_index", None) or 0


def resolve_layout(
    config: ml_collections.ConfigDict, platform: str | None = None
) -> ml_collections.ConfigDict:
    """Returns `config` with `first_stage=auto` replaced by the platform's choice.

    Networks know of no devices. Code that builds one for the devices of a run passes it
    the configuration that this function returns.

    Args:
      config: the configuration of a run; it stays as it is.
      platform: cpu, gpu or tpu; default: the platform of this process.
    """
    if config.first_stage != "auto":
        return config
    config = config.copy_and_resolve_references()
    platform = platform or jax.default_backend()
    config.first_stage = "pairs" if platform == "tpu" else "plain"
    return config


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that replicates an array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its leading axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def state_shardings(mesh: Mesh, tree: Any) -> Any:
    """Returns the shardings of parameters or of an optimizer's state, leaf by leaf.

    They depend on the shape alone, so that a parameter, its average and its momentum
    are sharded alike: the largest axis that `fsdp` divides (the last of equals) is
    sharded over it.
    """
    parts = mesh.shape["fsdp"]

    def one(leaf: Any) -> NamedSharding:
        divisible = [i for i, n in enumerate(leaf.shape) if n % parts == 0]
        if parts == 1 or leaf.size < _MIN_SHARDED_SIZE or not divisible:
            return replicated(mesh)
        axis = max(divisible, key=lambda i: (leaf.shape[i], i))
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, "fsdp"))

    return jax.tree.map(one, tree)


def on_each_device(
    function: Callable, mesh: Mesh, split: Sequence[bool], out_split: bool
) -> Callable:
    """Returns a function of global arrays that each device runs on its own rows.

    In one program for all devices, a loop over examples would synchronize them before
    every pass, and every partial sum would be reduced over them. Here devices exchange
    only what `function` reduces explicitly, by `collectives.device_axes`.

    Args:
      function: a function of a device's part of each argument.
      mesh: the run's.
      split: for each argument, true if its leading axis is sharded; else the argument
        is replicated.
      out_split: the same for the result. A replicated result must be equal on all
        devices.
    """
    spec = {True: PartitionSpec(AXES), False: PartitionSpec()}
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=tuple(spec[each] for each in split),
        out_specs=spec[out_split],
    )


def put(tree: Any, shardings: Any) -> Any:
    """Makes global arrays from values that every process holds completely."""

    def one(value: Any, sharding: NamedSharding) -> jax.Array:
        value = np.asarray(value)
        return jax.make_array_from_callback(value.shape, sharding, value.__getitem__)

    return jax.tree.map(one, tree, shardings)


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes global arrays from this process's rows of a batch."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }
