"""What every device does by itself: the same as one device, and without waiting."""

import jax
import numpy as np
import pytest

from borrow_det import evaluate, sharding, train_step
from borrow_det.data import pipeline, sources
from borrow_det.tasks.classification import ClassificationTask
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tasks.task import EvalSet
from borrow_det.tools import compiled_report


def make_mesh(devices):
    return sharding.make_mesh({"data": -1, "fsdp": 1}, jax.devices()[:devices])


@pytest.mark.parametrize("kind", ["detection", "classification"])
def test_two_devices_prepare_what_one_does(tiny_config, tiny_crops_config, kind):
    if kind == "detection":
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
    prepare = jax.jit(train_step.prepare_on_each_device(task, mesh))
    found = prepare(jax.random.key(3), sharding.put_batch(batch, mesh))
    for leaf, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        # Pixels are sums, whose order compilers choose.
        np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=1e-4)
    # A program of all devices' rows would ask all of them before each pass of a loop.
    text = prepare.lower(jax.random.key(3), batch).compile().as_text()
    exchanged = compiled_report.collectives(text)
    assert set(exchanged) == {"all-reduce"}
    assert exchanged["all-reduce"]["in_loops"] == 0


def test_no_device_waits_for_others_while_it_predicts(tiny_config):
    task, mesh = DetectionTask(tiny_config, 4), make_mesh(2)
    source = sources.load(tiny_config.dataset, "val")
    eval_set = EvalSet(source, sources.ground_truth(source))
    batch = next(task.eval_batches(eval_set))
    fields = {name: batch[name] for name in task.predict_fields}
    variables = jax.eval_shape(task.init, jax.random.key(0))
    predict = evaluate.make_predict(task, mesh)
    exchanged = compiled_report.collectives(
        predict.lower(variables, fields).compile().as_text()
    )
    # What was found is gathered, for all processes have it all.
    assert set(exchanged) == {"all-gather"}
    assert exchanged["all-gather"]["in_loops"] == 0
