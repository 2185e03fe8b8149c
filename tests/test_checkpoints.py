"""Checkpoints: what is saved when, and what comes back."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det import checkpoints, sharding
from borrow_det.errors import InputError


def make_state(step, ema=True):
    whole = sharding.replicated(sharding.make_mesh({"data": -1, "fsdp": 1}))
    kernel = jnp.arange(6, dtype=jnp.float32).reshape(2, 3) + step
    return jax.device_put(
        {
            "step": jnp.int32(step),
            "params": {"conv": {"kernel": kernel}},
            "batch_stats": {"norm": {"mean": kernel[0] * 2}},
            "ema_params": {"conv": {"kernel": kernel * 10}} if ema else {},
            "opt_state": (jnp.float32(step) / 3,),
        },
        whole,
    )


@pytest.fixture
def manager(tmp_path):
    manager = checkpoints.Checkpoints(tmp_path, every=2, keep=2)
    yield manager
    manager.close()


def test_whole_states_come_back_where_they_lay(tmp_path, manager):
    assert manager.latest_step is None
    state = make_state(2)
    manager.save(2, state)
    manager.close()
    restored = checkpoints.Checkpoints(tmp_path, every=2, keep=2)
    assert restored.latest_step == 2
    found = restored.restore(jax.tree.map(jnp.zeros_like, state))
    jax.tree.map(np.testing.assert_array_equal, found, state)
    assert found["params"]["conv"]["kernel"].sharding.is_fully_replicated
    assert len(found["params"]["conv"]["kernel"].devices()) == 2
    restored.close()


def test_saved_at_the_interval_the_last_when_forced_and_the_newest_kept(
    tmp_path, manager
):
    assert [manager.due(step) for step in (1, 2, 3, 4)] == [False, True, False, True]
    for step in range(1, 8):
        manager.save(step, make_state(step), force=step == 7)
    manager.close()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["6", "7"]


def test_inference_gets_the_average_where_there_is_one(tmp_path):
    for ema, factor in ((True, 10), (False, 1)):
        folder = tmp_path / str(ema)
        manager = checkpoints.Checkpoints(folder, every=2, keep=9)
        for step in (2, 4):
            manager.save(step, make_state(step, ema))
        manager.close()
        kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
        for step, expected in ((None, kernel + 4), (4, kernel + 4), (2, kernel + 2)):
            variables = checkpoints.restore_variables(folder, step)
            assert set(variables) == {"params", "batch_stats"}
            np.testing.assert_array_equal(
                variables["params"]["conv"]["kernel"], expected * factor
            )
            np.testing.assert_array_equal(
                variables["batch_stats"]["norm"]["mean"], expected[0] * 2
            )


def test_a_checkpoint_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="holds no checkpoints"):
        checkpoints.restore_variables(tmp_path)
    assert not (tmp_path / "checkpoints").exists()
    manager = checkpoints.Checkpoints(tmp_path, every=2, keep=9)
    manager.save(2, make_state(2))
    manager.close()
    with pytest.raises(InputError, match=r"steps \[2\], not 5"):
        checkpoints.restore_variables(tmp_path, 5)


def test_the_newest_step_is_a_finished_one(tiny_run, tmp_path):
    assert checkpoints.newest_step(tiny_run.workdir) == 4
    assert checkpoints.newest_step(tmp_path) is None
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    assert checkpoints.newest_step(tmp_path) is None
    shutil.copytree(tiny_run.workdir / "checkpoints/4", folder / "4")
    (folder / "6.orbax-checkpoint-tmp").mkdir()
    assert checkpoints.newest_step(tmp_path) == 4
