"""Runs with frozen stages: they keep what they start with, resume, and refuse."""

import types

import jax
import numpy as np
import pytest
import safetensors.numpy

from borrow_det import train
from borrow_det.configs import folder
from borrow_det.errors import InputError
from borrow_det.tools import import_weights
from borrow_det.workdir import checkpoints, metadata
from tests import program

pytestmark = pytest.mark.usefixtures("optax_promotes")

# For eight devices; means over one step, so that every line can be compared.
FIELDS = {"batch_size": 8, "eval_batch_size": 8, "log_every": 1, "ema_decay": 0.5}
FIELDS |= {"model.frozen": 5, "optimizer.trunk_rate": 0.5}
# Layers of the first five stages of tests/tiny_config.py.
FROZEN = tuple(f"conv{stage}_1" for stage in range(1, 6))


@pytest.fixture(scope="module")
def fields(tiny_run):
    return {**FIELDS, "init_from": str(tiny_run.workdir)}


@pytest.fixture(scope="module")
def frozen_run(make_tiny_config, fields, tmp_path_factory):
    """A finished run on two devices: `workdir` and `config`."""
    config = make_tiny_config()
    config.update_from_flattened_dict(fields)
    workdir = tmp_path_factory.mktemp("frozen_run") / "W"
    with jax.numpy_dtype_promotion("standard"):
        train.train_and_evaluate(config, workdir)
    return types.SimpleNamespace(workdir=workdir, config=config)


def test_frozen_stages_are_those_of_the_origin_and_all_else_is_averaged(
    frozen_run, tiny_run
):
    origin, found = (
        checkpoints.restore_variables(run.workdir)["params"]
        for run in (tiny_run, frozen_run)
    )
    state = program.state(frozen_run.workdir)
    assert jax.tree.structure(origin) == jax.tree.structure(found)
    for name, layer in found["trunk"].items():
        same = jax.tree.map(np.array_equal, layer, origin["trunk"][name])
        assert all(jax.tree.leaves(same)) == (name in FROZEN)
        last = jax.tree.map(np.array_equal, layer, state["params"]["trunk"][name])
        assert all(jax.tree.leaves(last)) == (name in FROZEN)
    kernels = [p["head1"]["class"]["kernel"] for p in (found, state["ema_params"])]
    np.testing.assert_array_equal(*kernels)
    assert not set(FROZEN) & set(state["ema_params"]["trunk"])


def test_a_resumed_run_equals_an_uninterrupted_one_and_says_what_is_constant(
    frozen_run, tmp_path, stop_after, capsys
):
    folder = tmp_path / "W"
    stop_after(3)
    with pytest.raises(stop_after.error):
        train.train_and_evaluate(frozen_run.config, folder)
    stop_after(2)
    train.train_and_evaluate(frozen_run.config, folder)
    program.assert_same_run(folder, frozen_run.workdir)

    params = program.state(folder)["params"]
    count, constant = (
        sum(leaf.size for leaf in jax.tree.leaves(tree))
        for tree in (params, [params["trunk"][name] for name in FROZEN])
    )
    shown = capsys.readouterr().out
    line = (
        f"{count:,} parameters ({count - constant:,} trainable, {constant:,} constant)"
    )
    assert "resuming at step 2" in shown
    assert shown.count(line) == 2


@pytest.mark.slow
def test_eight_devices_train_what_two_do(frozen_run, fields, scenes, tmp_path):
    given = [f"{name}={value}" for name, value in fields.items()]
    process = program.start(scenes, tmp_path / "W", *given, devices=8)
    program.finish(process, tmp_path / "W")
    found, expected = map(program.metrics, (tmp_path / "W", frozen_run.workdir))
    for a, b in zip(found, expected, strict=True):
        assert a["step"] == b["step"]
        if "loss" in b:
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-5), a["step"]
    assert found[-1]["val/AP"] == pytest.approx(expected[-1]["val/AP"], abs=1e-6)


def test_a_run_resumes_with_its_own_number_of_frozen_stages_only(frozen_run):
    config = frozen_run.config.copy_and_resolve_references()
    config.model.frozen = 4
    with pytest.raises(InputError, match=r"model\.frozen=5, this config says 4"):
        train.train_and_evaluate(config, frozen_run.workdir)


def test_frozen_stages_without_init_from_are_refused(tiny_config, tmp_path):
    tiny_config.model.frozen = 2
    with pytest.raises(InputError, match=r"model\.frozen is 2, and init_from is empty"):
        train.prepare_run(tiny_config, tmp_path / "W")
    assert not (tmp_path / "W").exists()


def test_a_frozen_stage_that_init_from_lacks_is_refused(
    tiny_run, tiny_config, tmp_path
):
    given = checkpoints.restore_variables(tiny_run.workdir)
    for name in ("conv_fc6", "conv_fc7", "conv6_1", "conv6_2"):
        del given["params"]["trunk"][name]
    checkpoints.save_variables(tmp_path / "VGG", given)
    tiny_config.init_from, tiny_config.init_normalization = str(tmp_path / "VGG"), False
    tiny_config.init_scope, tiny_config.model.frozen = "trunk", 6
    message = (
        "model.frozen is 6, but init_from gives no trunk/conv_fc6/conv/kernel, .*: the "
        "largest model.frozen for it is 5$"
    )
    with pytest.raises(InputError, match=message):
        train.prepare_run(tiny_config, tmp_path / "W")
    assert not (tmp_path / "W").exists()
    tiny_config.model.frozen = 5
    train.prepare_run(tiny_config, tmp_path / "W").close()


@pytest.mark.slow
def test_published_weights_train_a_detector_of_photographs(shared, tmp_path):
    """The loss falls at full width, with VGG-16's five stages frozen."""
    weights = shared / "weights" / "vgg16_features.safetensors"
    given = tmp_path / "VGG"
    import_weights.main(["import", f"--input={weights}", f"--output={given}"])
    config = folder.get_config(
        f"path={shared / 'data' / 'aquarium'},train=train[:4],val=val[:2],size=160,"
        f"steps=12,batch=4,weights={given},frozen=5"
    )
    config.augment.enabled = False
    config.schedule.warmup_steps, config.log_every = 0, 1
    config.eval_every = config.checkpoint_every = config.num_steps
    config.dataset.data_dir = str(tmp_path / "prepared")
    train.train_and_evaluate(config, tmp_path / "W")
    lines = program.metrics(tmp_path / "W")
    losses = [line["loss"] for line in lines if "loss" in line]
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])

    stored = metadata.load_config(tmp_path / "W").model
    assert stored.channel_order == "RGB"
    # In 0..255, with SOURCE.md's means and without division.
    np.testing.assert_allclose(stored.pixel_mean, (123.0, 117.0, 104.0), atol=1e-2)
    assert stored.pixel_std == (1.0, 1.0, 1.0)
    trunk = checkpoints.restore_variables(tmp_path / "W")["params"]["trunk"]
    tensors = safetensors.numpy.load_file(weights)
    last = tensors["features.28.weight"].astype(np.float32).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(trunk["conv5_3"]["conv"]["kernel"], last)
