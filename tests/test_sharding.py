"""The mesh and how a batch lies on it, with the two host devices of the tests."""

import jax
import numpy as np
import pytest

from borrow_det import sharding
from borrow_det.errors import InputError


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ({"data": -1}, {"data": 2}),
        ({"data": 2}, {"data": 2}),
        ({"data": -1, "model": 2}, {"data": 1, "model": 2}),
    ],
)
def test_mesh_takes_all_devices(axes, shape):
    assert dict(sharding.make_mesh(axes).shape) == shape


@pytest.mark.parametrize(
    "axes",
    [{"data": 1}, {"data": 4}, {"data": -1, "model": 3}, {"data": -1, "model": -1}],
)
def test_a_mesh_that_does_not_fit_is_refused(axes):
    with pytest.raises(InputError, match="mesh"):
        sharding.make_mesh(axes)


def test_a_batch_is_split_in_order_and_parameters_are_whole():
    mesh = sharding.make_mesh({"data": -1})
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    (batch,) = sharding.put_batch({"image": rows}, mesh).values()
    np.testing.assert_array_equal(batch, rows)
    shards = sorted(batch.addressable_shards, key=lambda shard: shard.device.id)
    for shard, expected in zip(shards, (rows[:2], rows[2:]), strict=True):
        np.testing.assert_array_equal(shard.data, expected)
    whole = jax.device_put(rows, sharding.replicated(mesh))
    for shard in whole.addressable_shards:
        np.testing.assert_array_equal(shard.data, rows)
