"""Classification from canvases to predictions: batches, devices, refusals."""

import dataclasses

import jax
import numpy as np
import pytest

from borrow_det import train_step
from borrow_det.configs import base
from borrow_det.data import pipeline, sources
from borrow_det.distributed import mesh as mesh_lib
from borrow_det.errors import InputError
from borrow_det.ops.losses import smoothed_cross_entropy
from borrow_det.tasks import open_data
from borrow_det.tasks.classification import ClassificationTask

pytestmark = pytest.mark.usefixtures("optax_promotes")


class Oracle:
    """Stands for a network: the logits are read from the corners of the image."""

    def apply(self, variables, image, train):
        del variables
        assert not train
        return image[:, 0, :2].reshape(len(image), 6) / 10


def test_a_prediction_is_the_softmax_of_the_middle_of_the_image():
    config = base.get_config()
    config.input_size = (28, 28)
    task = ClassificationTask(config, 6)
    task.model = Oracle()
    canvas = np.random.default_rng(0).integers(0, 256, (2, 40, 64, 3), np.uint8)
    batch = {
        "image": canvas,
        # The middle 28 of 32 rows.
        "image_size": np.array([[32, 32], [32, 64]], np.int32),
        "label": np.array([3, 0], np.int32),
    }
    found = jax.jit(task.predict)({}, batch)
    logits = np.stack([canvas[0, 2, 2:4], canvas[1, 2, 18:20]]).reshape(2, 6) / 10
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    order = np.argsort(-p, axis=1)[:, :5]
    np.testing.assert_array_equal(found.labels, order)
    np.testing.assert_allclose(
        found.probabilities, np.take_along_axis(p, order, axis=1), rtol=1e-3
    )
    np.testing.assert_allclose(found.loss, -np.log(p[[0, 1], [3, 0]]), rtol=1e-3)


def train_mesh(devices):
    axes = {"data": -1, "fsdp": 1}
    return mesh_lib.make_mesh(axes, jax.devices()[:devices])


def first_batch(task, split):
    row = task.train_row(split)
    return next(pipeline.train_batches(split, task.config, make_row=row))


def one_step(config, devices):
    """(metrics, parameters) after one step on the first batch, in NumPy."""
    mesh = train_mesh(devices)
    split = open_data(config).train
    task = ClassificationTask(config, len(split.class_names))
    batch = first_batch(task, split)
    state = train_step.init_state(task, mesh)
    step = train_step.make_train_step(task, mesh, state)
    state, metrics = step(state, mesh_lib.put_batch(batch, mesh))
    return jax.device_get((metrics, state.params))


def test_devices_and_micro_batches_change_only_rounding(tiny_crops_config):
    config = tiny_crops_config
    expected, expected_params = one_step(config, 1)
    config.micro_batch = 1
    metrics, params = one_step(config, 2)
    assert set(metrics) == {"loss", "gradient_norm"}
    for name, value in metrics.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, err_msg=name)
    # Whatever is dropped, and how the image is cropped, is the same.
    for leaf, other in zip(
        jax.tree.leaves(params), jax.tree.leaves(expected_params), strict=True
    ):
        np.testing.assert_allclose(leaf, other, atol=1e-5)


def test_each_example_has_its_own_random_draws(tiny_crops_config):
    config = tiny_crops_config
    task = ClassificationTask(config, 4)
    batch = first_batch(task, open_data(config).train)
    same = {name: np.repeat(value[:1], 4, axis=0) for name, value in batch.items()}
    prepare = jax.jit(task.prepare)
    examples, totals = prepare(jax.random.key(0), same)
    assert totals == {"examples": 4.0}
    assert len(np.unique(examples.key_data, axis=0)) == 4
    assert len(np.unique(np.asarray(examples.image), axis=0)) == 4
    again, _ = prepare(jax.random.key(0), same)
    jax.tree.map(np.testing.assert_array_equal, again, examples)
    other, _ = prepare(jax.random.key(1), same)
    assert not np.array_equal(other.image, examples.image)


def test_without_augmentation_training_sees_the_images_of_evaluation(tiny_crops_config):
    config = tiny_crops_config
    config.augment.enabled = False
    task = ClassificationTask(config, 6)
    task.model = Oracle()
    batch = first_batch(task, open_data(config).train)
    examples, _ = jax.jit(task.prepare)(jax.random.key(0), batch)
    logits = task.model.apply({}, examples.image, train=False)
    expected = smoothed_cross_entropy(logits, examples.label, 0.0)
    fields = {name: batch[name] for name in task.predict_fields}
    found = jax.jit(task.predict)({}, fields).loss
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.fixture
def changed_splits(monkeypatch):
    """A function: sources open as before, with these fields."""
    load_splits = sources.load_splits

    def change(**fields):
        def changed(*arguments):
            found = load_splits(*arguments)
            return [dataclasses.replace(split, **fields) for split in found]

        monkeypatch.setattr(sources, "load_splits", changed)

    return change


def test_detection_refuses_a_set_without_boxes(tiny_crops_config, changed_splits):
    changed_splits(whole_images=True)
    tiny_crops_config.task = "detection"
    with pytest.raises(InputError, match="no boxes: it is for task=classification"):
        open_data(tiny_crops_config)


def test_a_single_class_is_refused(tiny_crops_config, changed_splits):
    changed_splits(class_names=("face",))
    with pytest.raises(InputError, match="has the class face alone"):
        open_data(tiny_crops_config)
