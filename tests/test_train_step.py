"""One step: the same, within rounding, however a batch and a state are divided."""

import re

import flax
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


@pytest.mark.parametrize(("fsdp", "frozen"), [(1, 0), (2, 0), (2, 3)])
def test_all_arrays_of_the_state_are_donated(
    make_tiny_config, monkeypatch, fsdp, frozen
):
    monkeypatch.setattr(mesh_lib, "_MIN_SHARDED_SIZE", 64)
    config = make_tiny_config()
    config.ema_decay = 0.25
    config.model.frozen = frozen
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


# Frozen stages.


def with_frozen(config, frozen, **fields):
    config = config.copy_and_resolve_references()
    config.model.frozen = frozen
    config.update_from_flattened_dict(fields)
    return config


def split_by_path(tree, frozen):
    """({path: array} outside, {path: array} inside) of the modules `frozen`."""
    parts = {}, {}
    for path, leaf in flax.traverse_util.flatten_dict(tree, sep="/").items():
        inside = any(path.startswith(f"{module}/") for module in frozen)
        parts[inside][path] = np.asarray(leaf)
    return parts


@pytest.fixture(scope="module")
def frozen_on_two_devices(tiny_run):
    with jax.numpy_dtype_promotion("standard"):
        return one_step(with_frozen(tiny_run.config, 4), train_mesh(2))


def test_a_step_of_frozen_stages_is_that_of_all_without_their_update(
    tiny_run, on_two_devices, frozen_on_two_devices
):
    config = with_frozen(tiny_run.config, 4)
    task = make_task(config)
    first = jax.device_get(train_step.init_state(task, train_mesh(2)).params)
    (metrics, state), (expected, whole) = frozen_on_two_devices, on_two_devices
    for name in expected:
        if name != "gradient_norm":
            np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5)

    before, constants = split_by_path(first, task.frozen)
    assert len(constants) == 4 * 3  # A kernel, a scale and a bias each.
    after, kept = split_by_path(state.params, task.frozen)
    for path, value in constants.items():
        np.testing.assert_array_equal(kept[path], value)
    moved = [np.any(after[path] != value) for path, value in before.items()]
    assert np.mean(moved) > 0.9

    # The momentum after one step is the gradient plus the decay, of kernels.
    trace, others = (
        optax.tree_utils.tree_get(s.opt_state, "trace") for s in (state, whole)
    )
    found, nothing = split_by_path(trace, task.frozen)
    assert nothing == {}
    others, _ = split_by_path(others, task.frozen)
    assert set(found) == set(others) == set(before)
    squares = 0.0
    for path, value in found.items():
        scale = max(np.abs(others[path]).max(), 1e-3)
        np.testing.assert_allclose(value, others[path], atol=1e-4 * scale, err_msg=path)
        decay = config.optimizer.weight_decay * path.endswith("kernel")
        squares += np.sum((value - decay * before[path]) ** 2)
    assert metrics["gradient_norm"] == pytest.approx(np.sqrt(squares), rel=1e-4)
    assert metrics["gradient_norm"] < expected["gradient_norm"]


@pytest.mark.parametrize(("optimizer", "moments"), [("sgd", 1), ("adamw", 2)])
def test_what_is_frozen_has_no_moments_and_no_average(
    make_tiny_config, optimizer, moments
):
    fields = {"ema_decay": 0.5, "optimizer.name": optimizer, "optimizer.clip_norm": 1.0}
    task = make_task(with_frozen(make_tiny_config(), 5, **fields))
    state = train_step.abstract_state(task, train_mesh(2))
    trained, constants = (
        sum(leaf.size for leaf in part.values())
        for part in split_by_path(
            jax.tree.map(lambda x: np.zeros(x.shape), state.params), task.frozen
        )
    )
    assert constants > 1000
    arrays = jax.tree.leaves(state.opt_state)
    held = [leaf.size for leaf in arrays if leaf.dtype == jnp.float32]
    assert sum(held) == moments * trained
    assert sum(leaf.size for leaf in jax.tree.leaves(state.ema_params)) == trained


@pytest.mark.parametrize(
    ("devices", "fields"), [(1, {"micro_batch": 2, "remat": "trunk"}), (2, {})]
)
def test_devices_micro_batches_and_sharding_change_only_rounding_with_frozen_stages(
    tiny_run, frozen_on_two_devices, monkeypatch, devices, fields
):
    monkeypatch.setattr(mesh_lib, "_MIN_SHARDED_SIZE", 64)
    config = with_frozen(tiny_run.config, 4, **fields)
    mesh = mesh_lib.make_mesh({"data": 1, "fsdp": devices}, jax.devices()[:devices])
    assert_equal_steps(one_step(config, mesh), frozen_on_two_devices)


def test_frozen_statistics_stay_and_clipping_counts_what_is_trained(make_tiny_config):
    fields = {
        "model.norm": "batch",
        "micro_batch": 1,
        "first_stage": "pairs",
        "optimizer.name": "adamw",
        "optimizer.clip_norm": 0.01,
    }
    config = with_frozen(make_tiny_config(), 3, **fields)
    frozen = make_task(config).frozen
    metrics, state = one_step(config, train_mesh(2))
    changed, kept = split_by_path(state.batch_stats, frozen)
    assert {path.split("/")[1] for path in kept} == {"conv1_1", "conv2_1", "conv3_1"}
    for path, value in kept.items():
        np.testing.assert_array_equal(value, float(path.endswith("var")))
    for path, value in changed.items():
        assert np.all(value != float(path.endswith("var"))), path
    # The first moment after one step is a tenth of the clipped gradient.
    mu = optax.tree_utils.tree_get(state.opt_state, "mu")
    assert metrics["gradient_norm"] > 0.01
    assert optax.global_norm(mu) == pytest.approx(0.001, rel=1e-4)


def test_a_step_with_a_frozen_trunk_costs_little_more_than_the_forward_pass(
    make_tiny_config,
):
    config = make_tiny_config()
    config.model.width, config.model.norm = 0.25, "none"
    config.borrow.enabled = config.borrow.context = False
    split = sources.load(config.dataset, "train")
    batch = jax.eval_shape(lambda: next(pipeline.train_batches(split, config)))
    mesh = train_mesh(1)

    def flops(frozen):
        """FLOPs of the compiled step."""
        task = make_task(with_frozen(config, frozen))
        state = train_step.abstract_state(task, mesh)
        step = train_step.make_train_step(task, mesh, state)
        return step.lower(state, batch).compile().cost_analysis()["flops"]

    task = make_task(config)
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((config.batch_size, *task.input_size, 3), np.float32)
    forward = jax.jit(task.model.apply).lower(shapes, images).compile()
    forward = forward.cost_analysis()["flops"]
    assert 1 < flops(7) / forward < 1.3
    assert flops(0) / forward > 2


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
