"""The mesh and the shardings on it, with the two host devices of the tests."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from borrow_det.configs import base
from borrow_det.distributed import mesh as mesh_lib
from borrow_det.distributed import processes as processes_lib
from borrow_det.errors import InputError


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ({"data": -1, "fsdp": 1}, {"data": 2, "fsdp": 1}),
        ({"data": 2, "fsdp": 1}, {"data": 2, "fsdp": 1}),
        ({"fsdp": -1, "data": 1}, {"data": 1, "fsdp": 2}),
    ],
)
def test_the_mesh_has_all_devices(axes, shape):
    mesh = mesh_lib.make_mesh(axes)
    assert dict(mesh.shape) == shape
    assert mesh.axis_names == ("data", "fsdp")


@pytest.mark.parametrize(
    "axes",
    [
        {"data": 1, "fsdp": 1},
        {"data": 4, "fsdp": 1},
        {"data": -1, "fsdp": 3},
        {"data": -1, "fsdp": -1},
        {"data": 0, "fsdp": -1},
        {"data": -2, "fsdp": -1},
        {"data": 2},
        {"data": 1, "fsdp": 2, "model": 1},
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(axes):
    with pytest.raises(InputError, match="mesh"):
        mesh_lib.make_mesh(axes)


@dataclasses.dataclass(frozen=True)
class Chip:
    """A device of a TPU slice."""

    id: int
    process_index: int
    slice_index: int


def pod(slices, processes, chips):
    """Returns chips by id; consecutive ids are on different processes of a slice."""
    return [
        Chip((s * chips + c) * processes + p, s * processes + p, s)
        for s in range(slices)
        for c in range(chips)
        for p in range(processes)
    ]


def test_processes_hold_consecutive_rows_and_fsdp_stays_within_a_slice():
    mesh = mesh_lib.make_mesh({"data": -1, "fsdp": 4}, pod(2, 2, 4))
    assert mesh.devices.shape == (4, 4)
    order = [(d.slice_index, d.process_index) for d in mesh.devices.flat]
    assert order == [(0, 0)] * 4 + [(0, 1)] * 4 + [(1, 2)] * 4 + [(1, 3)] * 4
    for row in mesh.devices:
        assert len({d.slice_index for d in row}) == 1


def test_fsdp_over_more_than_a_slice_is_refused():
    with pytest.raises(InputError, match=r"mesh\.fsdp is 16; .* 8 devices of each"):
        mesh_lib.make_mesh({"data": 1, "fsdp": 16}, pod(2, 2, 4))


@pytest.mark.parametrize("axes", [{"data": -1, "fsdp": 1}, {"data": 1, "fsdp": -1}])
def test_a_batch_is_sharded_in_order_over_both_axes(axes):
    mesh = mesh_lib.make_mesh(axes)
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    (batch,) = mesh_lib.put_batch({"image": rows}, mesh).values()
    np.testing.assert_array_equal(batch, rows)
    shards = sorted(batch.addressable_shards, key=lambda shard: shard.device.id)
    for shard, expected in zip(shards, (rows[:2], rows[2:]), strict=True):
        np.testing.assert_array_equal(shard.data, expected)


def test_fsdp_shards_the_largest_axis_of_large_arrays():
    shapes = {
        "kernel": (3, 3, 128, 256),
        "reduction": (1, 1, 256, 64),
        "square": (1, 1, 128, 128),
        "odd": (3, 3, 127, 129),
        "bias": (1024,),
        "step": (),
    }
    tree = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in shapes.items()}
    mesh = mesh_lib.make_mesh({"data": 1, "fsdp": 2})
    places = {n: p.spec for n, p in mesh_lib.state_shardings(mesh, tree).items()}
    assert places == {
        "kernel": PartitionSpec(None, None, None, "fsdp"),
        "reduction": PartitionSpec(None, None, "fsdp"),
        "square": PartitionSpec(None, None, None, "fsdp"),
        "odd": PartitionSpec(),
        "bias": PartitionSpec(),
        "step": PartitionSpec(),
    }
    mesh = mesh_lib.make_mesh({"data": 2, "fsdp": 1})
    places = mesh_lib.state_shardings(mesh, tree).values()
    assert {place.spec for place in places} == {PartitionSpec()}


def test_values_that_all_processes_hold_are_sharded():
    mesh = mesh_lib.make_mesh({"data": 1, "fsdp": 2})
    tree = {"kernel": np.arange(2.0**15).reshape(128, 256), "step": np.int32(3)}
    placed = mesh_lib.put(tree, mesh_lib.state_shardings(mesh, tree))
    jax.tree.map(np.testing.assert_array_equal, placed, tree)
    halves = [shard.data.shape for shard in placed["kernel"].addressable_shards]
    assert halves == [(128, 128)] * 2
    assert placed["step"].sharding.is_fully_replicated


def test_rows_of_one_process_are_all_rows():
    ids = np.array([2**40, 3], np.int64)
    np.testing.assert_array_equal(processes_lib.all_rows(ids), ids)


@pytest.mark.parametrize(
    ("first_stage", "platform", "expected"),
    [
        ("auto", "tpu", "pairs"),
        ("auto", "gpu", "plain"),
        ("auto", None, "plain"),  # Tests run on CPUs.
        ("pairs", "cpu", "pairs"),
        ("plain", "tpu", "plain"),
    ],
)
def test_resolve_layout_chooses_pairs_on_tpus(first_stage, platform, expected):
    config = base.get_config()
    config.first_stage = first_stage
    assert mesh_lib.resolve_layout(config, platform).first_stage == expected
    assert config.first_stage == first_stage
