"""One step: the same, within rounding, however a batch and a state are divided."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from borrow_det import tasks, train_step
from borrow_det.data import pipeline, sources
from borrow_det.distributed import mesh as mesh_lib
from borrow_det.tasks import detection
from borrow_det.tools.aot_compile import report
from tests.tiny_config import REFERENCES

pytestmark = pytest.mark.usefixtures("optax_promotes")


def make_task(config):
    return detection.DetectionTask(config, num_classes=4)


def train_mesh(devices):
    axes = {"data": -1, "fsdp": 1}
    return mesh_lib.make_mesh(axes, jax.devices()[:devices])


def one_step(config, mesh):
    """(metrics, state) after one step on the first batch."""
    split = sources.load(config.dataset, "train")
    task = make_task(config)
    row = task.train_row(split)
    batch = next(pipeline.train_batches(split, config, make_row=row))
    state = train_step.init_state(task, mesh)
    step = train_step.make_train_step(task, mesh, state)
    state, metrics = step(state, mesh_lib.put_batch(batch, mesh))
    return jax.device_get(metrics), jax.device_get(state)


@pytest.fixture(scope="module")
def on_two_devices(tiny_run):
    with jax.numpy_dtype_promotion("standard"):
        return one_step(tiny_run.config, train_mesh(2))


def test_average_moves_by_one_minus_decay(tiny_run, on_two_devices):
    config, (_, state) = tiny_run.config, on_two_devices
    first = train_step.init_state(make_task(config), train_mesh(2))

    def check(ema, old, new):
        np.testing.assert_allclose(ema, 0.25 * old + 0.75 * new, rtol=1e-5, atol=1e-6)
        return np.abs(new - old).max()

    moved = jax.tree.map(
        check, state.ema_params, jax.device_get(first.params), state.params
    )
    assert max(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.parametrize("fsdp", [1, 2])
def test_all_arrays_of_the_state_are_donated(make_tiny_config, monkeypatch, fsdp):
    monkeypatch.setattr(mesh_lib, "_MIN_SHARDED_SIZE", 64)
    config = make_tiny_config()
    config.ema_decay = 0.25
    mesh = mesh_lib.make_mesh({"data": -1, "fsdp": fsdp})
    split = sources.load(config.dataset, "train")
    batch = mesh_lib.put_batch(next(pipeline.train_batches(split, config)), mesh)
    task = make_task(config)
    state = train_step.init_state(task, mesh)
    step = train_step.make_train_step(task, mesh, state)
    new_state, _ = step(state, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(batch))
    # Each array of a device takes the place of the one it comes from.
    compiled = step.lower(new_state, batch).compile()
    held = [leaf.addressable_data(0).nbytes for leaf in jax.tree.leaves(new_state)]
    assert report.memory(compiled)["donated"] == sum(held)
    aliases = re.search(r"input_output_alias={(.*?)}, entry", compiled.as_text())
    pairs = re.findall(r"{(\d+)}: \((\d+), {}", aliases[1])
    assert pairs == [(str(i), str(i)) for i in range(len(held))]


@pytest.mark.parametrize("kind", ["overview", "group"])
def test_devices_and_micro_batches_change_only_rounding_with_references_and_copies(
    make_tiny_config, kind
):
    config = make_tiny_config()
    config.update_from_flattened_dict(REFERENCES[kind])
    config.augment.update(paste=1.0, paste_sides=(4.0, 10.0))
    expected = one_step(config, train_mesh(2))
    assert expected[0]["loss/matching"] > 0
    config.micro_batch, config.remat = 2, "trunk"
    assert_equal_steps(one_step(config, train_mesh(1)), expected)


@pytest.mark.parametrize(
    ("devices", "micro_batch", "remat"),
    [(1, 0, "none"), (2, 1, "none"), (2, 0, "trunk"), (1, 2, "trunk")],
)
def test_devices_micro_batches_and_remat_change_only_rounding(
    tiny_run, on_two_devices, devices, micro_batch, remat
):
    config = tiny_run.config.copy_and_resolve_references()
    config.micro_batch, config.remat = micro_batch, remat
    assert_equal_steps(one_step(config, train_mesh(devices)), on_two_devices)


def test_column_pairs_change_only_rounding(make_tiny_config):
    config, steps = make_tiny_config(), []
    config.model.norm = "batch"  # With statistics of both devices.
    for config.first_stage in ("pairs", "plain"):
        steps.append(one_step(config, train_mesh(2)))
    assert_equal_steps(*steps)


def test_sharded_parameters_change_only_rounding(tiny_run, on_two_devices, monkeypatch):
    monkeypatch.setattr(mesh_lib, "_MIN_SHARDED_SIZE", 64)
    config = tiny_run.config
    mesh = mesh_lib.make_mesh({"data": 1, "fsdp": 2})
    state = train_step.init_state(make_task(config), mesh)
    for part in (state.params, state.ema_params, state.opt_state):
        kernels = [leaf for leaf in jax.tree.leaves(part) if leaf.size >= 64]
        split = [not leaf.sharding.is_fully_replicated for leaf in kernels]
        assert len(split) > 20
        assert all(split)
    assert_equal_steps(one_step(config, mesh), on_two_devices)


@pytest.mark.parametrize("task", ["detection", "classification"])
def test_remat_recomputes_only_the_trunk(make_tiny_config, task):
    config, counts = make_tiny_config(), []
    config.task, config.input_size = task, (256, 256)
    for config.remat in ("none", "trunk"):
        made = tasks.TASKS[task](config, 4)
        shapes = jax.eval_shape(made.init, jax.random.key(0))
        split = tasks.open_data(config).train
        row = made.train_row(split)
        batch = next(pipeline.train_batches(split, config, make_row=row))
        examples, totals = jax.eval_shape(made.prepare, jax.random.key(0), batch)

        def loss(params, examples, totals, made=made, stats=shapes["batch_stats"]):
            return made.loss(params, stats, examples, totals)[0]

        lowered = jax.jit(jax.grad(loss)).lower(shapes["params"], examples, totals)
        counts.append(lowered.as_text().count("stablehlo.convolution"))
    assert counts[1] - counts[0] == sum(config.model.stages)


def assert_equal_steps(step, expected_step):
    """(metrics, state) of a step are another one's, within rounding."""
    metrics, state = step
    expected, expected_state = expected_step
    assert set(metrics) == set(expected)
    for name, value in metrics.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, err_msg=name)
    # The momentum after one step is the gradient plus the decay.
    momentum, other = (
        optax.tree_utils.tree_get(s.opt_state, "trace") for s in (state, expected_state)
    )
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(other))
    for (path, leaf), expected_leaf in zip(
        jax.tree_util.tree_leaves_with_path(momentum),
        jax.tree.leaves(other),
        strict=True,
    ):
        scale = max(np.abs(expected_leaf).max(), 1e-3 * largest)
        np.testing.assert_allclose(
            leaf, expected_leaf, atol=1e-3 * scale, err_msg=str(path)
        )


def test_bfloat16_computes_a_close_loss_with_float32_gradients(tiny_config):
    tiny_config.augment.enabled = False
    split = sources.load(tiny_config.dataset, "train")
    batch = next(pipeline.train_batches(split, tiny_config))
    state = train_step.init_state(make_task(tiny_config), train_mesh(2))
    prepare = jax.jit(make_task(tiny_config).prepare)
    examples, totals = prepare(jax.random.key(0), batch)
    losses = []
    for dtype in ("float32", "bfloat16"):
        tiny_config.dtype = dtype
        task = make_task(tiny_config)

        def loss(params, task=task):
            return task.loss(params, state.batch_stats, examples, totals)[0]

        losses.append(float(jax.jit(loss)(state.params)))
        gradient = jax.eval_shape(jax.grad(loss), state.params)
        assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("f4")}
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.05)
