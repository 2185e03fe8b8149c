"""Work that every device does alone gives the results of one device."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from borrow_det import evaluate, train_step
from borrow_det.data import pipeline, sources
from borrow_det.distributed import mesh as mesh_lib
from borrow_det.tasks.classification import ClassificationTask
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tasks.detection_evaluator import DetectionEvaluator
from borrow_det.tools.aot_compile import report


def make_mesh(devices):
    return mesh_lib.make_mesh({"data": -1, "fsdp": 1}, jax.devices()[:devices])


@pytest.mark.parametrize("kind", ["detection", "copies", "classification"])
def test_two_devices_prepare_the_examples_of_one_device(
    tiny_config, tiny_crops_config, kind
):
    if kind != "classification":
        tiny_config.augment.paste = 1.0 if kind == "copies" else 0.0
        config, task_class = tiny_config, DetectionTask
        source = sources.load(config.dataset, "train")
        batch = next(pipeline.train_batches(source, config))
    else:
        config, task_class = tiny_crops_config, ClassificationTask
        batch = {
            "image": np.random.default_rng(0).integers(256, size=(4, 32, 32, 3)),
            "image_size": np.array([[32, 32], [20, 32], [9, 9], [32, 5]], np.int32),
            "label": np.arange(4, dtype=np.int32),
        }
        batch["image"] = batch["image"].astype(np.uint8)
    task = task_class(config, 4)
    expected = jax.jit(task.prepare)(jax.random.key(3), batch)
    mesh = make_mesh(2)
    prepare = jax.jit(
        jax.shard_map(
            task.prepare,
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec(mesh_lib.AXES)),
            out_specs=(PartitionSpec(mesh_lib.AXES), PartitionSpec()),
        )
    )
    found = prepare(jax.random.key(3), mesh_lib.put_batch(batch, mesh))
    for leaf, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        # Pixels are sums, and compilers choose their order.
        np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("micro_batch", [0, 1])
def test_devices_exchange_gradients_once_per_step(tiny_config, micro_batch):
    tiny_config.micro_batch = micro_batch
    task, mesh = DetectionTask(tiny_config, 4), make_mesh(2)
    source = sources.load(tiny_config.dataset, "train")
    batch = next(pipeline.train_batches(source, tiny_config))
    state = train_step.abstract_state(task, mesh)
    step = train_step.make_train_step(task, mesh, state)
    exchanged = report.collectives(step.lower(state, batch).compile().as_text())
    assert set(exchanged) == {"all-reduce"}
    # Neither the passes over micro-batches nor the loops of the assignment exchange.
    assert exchanged["all-reduce"]["in_loops"] == 0
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    # Gradients, the terms of the loss, and the counts that the terms are divided by.
    numbers = parameters + 4 + 2
    assert exchanged["all-reduce"]["bytes"] == 4 * numbers


def test_no_device_waits_for_others_while_it_predicts(tiny_config):
    task, mesh = DetectionTask(tiny_config, 4), make_mesh(2)
    split = sources.load(tiny_config.dataset, "val")
    batch = next(DetectionEvaluator(split, tiny_config).batches())
    fields = {name: batch[name] for name in task.predict_fields}
    variables = jax.eval_shape(task.init, jax.random.key(0))
    predict = evaluate.make_predict(task, mesh)
    exchanged = report.collectives(predict.lower(variables, fields).compile().as_text())
    # Detections are gathered: every process has all of them.
    assert set(exchanged) == {"all-gather"}
    assert exchanged["all-gather"]["in_loops"] == 0


def test_batch_normalization_is_over_the_images_of_all_devices(tiny_config):
    tiny_config.model.norm = "batch"
    task = DetectionTask(tiny_config, 4)
    source = sources.load(tiny_config.dataset, "train")
    batch = next(pipeline.train_batches(source, tiny_config))
    found = []
    for devices in (1, 2):
        mesh = make_mesh(devices)
        state = train_step.init_state(task, mesh)
        step = train_step.make_train_step(task, mesh, state)
        # Inside of flax's BatchNorm, ranks are promoted.
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            state, metrics = step(state, mesh_lib.put_batch(batch, mesh))
        found.append(jax.device_get((state.batch_stats, metrics, state.params)))
    (statistics, *one), (others, *two) = found
    for a, b in zip(*map(jax.tree.leaves, (statistics, others)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(statistics))
    # The gradient is, too.
    for a, b in zip(*map(jax.tree.leaves, (one, two)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
