"""Checkpoints: what is saved when, and what comes back."""

import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.distributed import mesh as mesh_lib
from borrow_det.errors import InputError
from borrow_det.workdir import checkpoints, metadata


def make_state(step, ema=True):
    whole = mesh_lib.replicated(mesh_lib.make_mesh({"data": -1, "fsdp": 1}))
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


def test_states_are_restored_with_their_shardings(tmp_path, manager):
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


def test_saves_at_the_interval_or_when_forced_and_keeps_the_latest(tmp_path, manager):
    assert [manager.due(step) for step in (1, 2, 3, 4)] == [False, True, False, True]
    for step in range(1, 8):
        manager.save(step, make_state(step), force=step == 7)
    manager.close()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["6", "7"]


def test_the_best_checkpoint_is_kept_in_addition_to_the_latest(tmp_path):
    manager = checkpoints.Checkpoints(tmp_path, every=1, keep=1)
    kept = []
    for step, best in ((1, 1), (2, 1), (3, 1), (4, 4), (5, 4), (6, 6)):
        manager.save(step, make_state(step))
        manager.keep_best(best)
        kept.append(names(tmp_path))
    manager.close()
    assert kept == [["1"], ["1", "2"], ["1", "3"], ["4"], ["4", "5"], ["6"]]
    reopened = checkpoints.Checkpoints(tmp_path, every=1, keep=1)
    reopened.keep_best(6)
    reopened.save(7, make_state(7))
    reopened.close()
    assert names(tmp_path) == ["6", "7"]
    assert checkpoints.complete_steps(tmp_path) == [6, 7]


def test_inference_gets_averaged_parameters_if_present(tmp_path):
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


def test_absent_checkpoint_is_named(tmp_path):
    with pytest.raises(InputError, match="holds no checkpoints"):
        checkpoints.restore_variables(tmp_path)
    assert not (tmp_path / "checkpoints").exists()
    manager = checkpoints.Checkpoints(tmp_path, every=2, keep=9)
    manager.save(2, make_state(2))
    manager.close()
    with pytest.raises(InputError, match=r"steps \[2\], not 5"):
        checkpoints.restore_variables(tmp_path, 5)


def test_newest_step_ignores_unfinished_checkpoints(tiny_run, tmp_path):
    assert checkpoints.newest_step(tiny_run.workdir) == 4
    assert checkpoints.newest_step(tmp_path) is None
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    assert checkpoints.newest_step(tmp_path) is None
    shutil.copytree(tiny_run.workdir / "checkpoints/4", folder / "4")
    (folder / "6.orbax-checkpoint-tmp").mkdir()
    assert checkpoints.newest_step(tmp_path) == 4


def test_force_saves_at_once_and_a_saved_step_is_not_written_again(tmp_path):
    manager = checkpoints.Checkpoints(tmp_path, every=4, keep=9)
    assert [manager.due(step) for step in (3, 4)] == [False, True]
    manager.save(3, make_state(3))
    assert manager.latest_step is None
    manager.save(3, make_state(3), force=True)  # As for a preempted run.
    assert manager.latest_step == 3
    assert not manager.due(3)
    manager.save(3, make_state(9), force=True)  # As for the last step of a run.
    manager.close()
    assert checkpoints.newest_step(tmp_path) == 3
    kernel = checkpoints.restore_variables(tmp_path)["params"]["conv"]["kernel"]
    assert kernel[0, 0] == 30


def test_bucket_paths_are_kept_and_relative_paths_made_absolute(
    monkeypatch,
):
    monkeypatch.setattr(checkpoints.paths, "_check_bucket", lambda name: None)
    for given, expected in (
        ("gs://bucket/runs/W", "gs://bucket/runs/W/checkpoints"),
        ("runs/W", f"{pathlib.Path.cwd()}/runs/W/checkpoints"),
    ):
        assert str(checkpoints._folder(given)) == expected


def test_an_error_of_another_kind_keeps_its_type(manager):
    with pytest.raises(ValueError, match="Unsupported type") as caught:
        manager.save(2, {**make_state(2), "params": {"conv": object}})
    assert not isinstance(caught.value, InputError)


# ---- Damage ----


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """A work directory with the checkpoints of steps 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("whole")
    manager = checkpoints.Checkpoints(folder, every=2, keep=3)
    for step in (2, 4, 6):
        manager.save(step, make_state(step))
    manager.close()
    return folder


@pytest.fixture
def run(whole_run, tmp_path):
    shutil.copytree(whole_run / "checkpoints", tmp_path / "checkpoints")
    return tmp_path


def reopened(run):
    return checkpoints.Checkpoints(run, every=2, keep=9)


def names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def largest(folder):
    return max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)


# What a power cut, a full disk or a deletion that was cut short leave of a checkpoint.
DAMAGE = {
    "array cut short": lambda step: halve(largest(step / "model")),
    "array empty": lambda step: largest(step / "training").write_bytes(b""),
    "array gone": lambda step: largest(step / "model").unlink(),
    "index empty": lambda step: (step / "model/manifest.ocdbt").write_bytes(b""),
    "index of the arrays gone": lambda step: shutil.rmtree(step / "training/d"),
    "tree gone": lambda step: (step / "training/_METADATA").unlink(),
    "tree cut short": lambda step: halve(step / "model/_METADATA"),
    "half deleted": lambda step: shutil.rmtree(step / "training"),
    "nothing left": lambda step: [shutil.rmtree(p) for p in step.glob("*/")],
}


# A read that fails leaves others that find orbax's event loop closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_checkpoint_is_renamed_and_the_earlier_one_restored(run, damage):
    damage(run / "checkpoints/6")
    left = sorted((run / "checkpoints/6").rglob("*"))
    manager, lines = reopened(run), []
    found = manager.restore(make_state(0), lines.append)
    jax.tree.map(np.testing.assert_array_equal, found, make_state(4))
    assert manager.latest_step == 4
    (line,) = lines
    aside = run / "checkpoints/6.damaged"
    assert line.startswith(f"the checkpoint of step 6 is damaged and now in {aside} (")
    assert line.endswith("); resuming from step 4")
    assert "\n" not in line
    assert names(run) == ["2", "4", "6.damaged"]
    assert len(list(aside.rglob("*"))) == len(left)
    assert checkpoints.newest_step(run) == 4
    assert checkpoints.restore_variables(run)["params"]["conv"]["kernel"][0, 0] == 40

    # The run makes the step again, and saves it.
    assert manager.due(6)
    manager.save(6, make_state(6))
    manager.close()
    again = reopened(run).restore(make_state(0), lines.append)
    jax.tree.map(np.testing.assert_array_equal, again, make_state(6))
    assert len(lines) == 1


def test_several_damaged_checkpoints_are_renamed(run):
    (run / "checkpoints/6.damaged").mkdir()
    for step in (4, 6):
        (run / "checkpoints" / str(step) / "model/_METADATA").unlink()
    manager, lines = reopened(run), []
    found = manager.restore(make_state(0), lines.append)
    manager.close()
    assert found["step"] == 2
    assert [line.split(" is")[0] for line in lines] == [
        "the checkpoint of step 6",
        "the checkpoint of step 4",
    ]
    assert names(run) == ["2", "4.damaged", "6.damaged", "6.damaged-2"]
    assert list((run / "checkpoints/6.damaged").iterdir()) == []


def test_without_a_complete_checkpoint_nothing_is_renamed(run):
    for step in ("2", "4", "6"):
        (run / "checkpoints" / step / "model/_METADATA").unlink()
    manager = reopened(run)
    with pytest.raises(InputError) as caught:
        manager.restore(make_state(0), pytest.fail)
    manager.close()
    message = str(caught.value)
    folder = run / "checkpoints"
    assert message.startswith(f"{folder} holds no whole checkpoint (step 6: Metadata")
    assert "; step 2: Metadata" in message
    assert message.endswith("from the start, or choose another --workdir")
    assert names(run) == ["2", "4", "6"]
    assert metadata.has_checkpoints(run)


def test_remains_of_a_killed_save_are_ignored(run):
    # Of steps that were being written, and a file that is not needed to read another.
    for step in (8, 9):
        unfinished = run / f"checkpoints/{step}.orbax-checkpoint-tmp"
        shutil.copytree(run / "checkpoints/6/model", unfinished / "model")
    (run / "checkpoints/6/_CHECKPOINT_METADATA").unlink()
    manager = reopened(run)
    assert manager.latest_step == 6
    assert manager.restore(make_state(0), pytest.fail)["step"] == 6
    for step in (7, 8):
        manager.save(step, make_state(step))
    manager.close()
    assert names(run) == ["2", "4", "6", "8"]
    manager = reopened(run)
    assert manager.restore(make_state(0), pytest.fail)["step"] == 8
    manager.close()


def test_other_architecture_is_not_reported_as_damage(run):
    manager = reopened(run)
    wider = make_state(0)
    wider["params"] = {"conv": {"kernel": jnp.zeros((2, 5))}}
    other = {**make_state(0), "opt_state": (jnp.int32(0), jnp.zeros(2))}
    for state, fault in (
        (
            wider,
            "model/params/conv/kernel is float32[2, 3] there and float32[2, 5] in this "
            "run; choose",
        ),
        (
            other,
            "training/opt_state/0 is float32[] there and int32[] in this run, "
            "training/opt_state/1 is absent there and float32[2] in this run; choose",
        ),
        (make_state(0, ema=False), "kernel is float32[2, 3] there and absent in this"),
    ):
        with pytest.raises(InputError) as caught:
            manager.restore(state, pytest.fail)
        assert f"{run}/checkpoints/6 is the checkpoint of another" in str(caught.value)
        assert fault in str(caught.value)
    manager.close()
    assert names(run) == ["2", "4", "6"]


def test_lack_of_memory_is_not_reported_as_damage(run, monkeypatch):
    def fail(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    handler = checkpoints.ocp.StandardCheckpointHandler
    monkeypatch.setattr(handler, "restore", fail)
    manager = reopened(run)
    with pytest.raises(jax.errors.JaxRuntimeError, match="out of memory"):
        manager.restore(make_state(0), pytest.fail)
    manager.close()
    assert names(run) == ["2", "4", "6"]


def test_a_checkpoint_that_another_process_cannot_read_is_damaged(run, monkeypatch):
    manager, lines = reopened(run), []
    answers = [np.array([1, 0]), np.array([1, 1])]
    utils = checkpoints.multihost_utils
    monkeypatch.setattr(utils, "process_allgather", lambda _: answers.pop(0))
    monkeypatch.setattr(utils, "sync_global_devices", lambda _: None)
    assert manager.restore(make_state(0), lines.append)["step"] == 4
    manager.close()
    assert "(another process could not read it)" in lines[0]
    assert names(run) == ["2", "4", "6.damaged"]
