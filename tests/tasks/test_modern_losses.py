"""Focal loss and losses of decoded boxes in the task, from examples to detections."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.models.detector import Predictions
from borrow_det.ops import boxes as box_ops
from borrow_det.ops import iou_losses, losses
from borrow_det.tasks import detection, detection_losses

CLASSES, INPUT = 3, (64, 128)  # Twice as wide as high.
BOX_LOSSES = ("giou", "ciou")


def make_config(**loss):
    config = base.get_config()
    config.input_size = INPUT
    config.anchors.sizes = (8.0, 16.0, 32.0, 64.0)
    config.augment.enabled = False
    config.borrow.enabled = False
    config.loss.positive_iou = 0.3  # Several anchors of each object.
    config.loss.update({"classification": "focal", "localization": 1.0, **loss})
    return config


@pytest.fixture(scope="module")
def batch():
    """An image with objects, one of them difficult, and one without any."""
    boxes = np.zeros((2, 3, 4), np.float32)
    boxes[:, 0] = [0.05, 0.1, 0.55, 0.35]
    boxes[:, 1] = [0.1, 0.5, 0.35, 0.63]
    boxes[:, 2] = [0.5, 0.6, 0.95, 0.85]
    ignore = np.zeros((2, 3), bool)
    ignore[0, 2] = True
    return {
        "image": np.zeros((2, *INPUT, 3), np.uint8),
        "image_size": np.full((2, 2), INPUT, np.int32),
        "boxes": boxes,
        "labels": np.array([[0, 2, 1], [0, 0, 0]], np.int32),
        "box_mask": np.array([[1, 1, 1], [0, 0, 0]], bool),
        "ignore": ignore,
    }


@pytest.fixture(scope="module")
def prepared(batch):
    """(task, examples, totals); the targets are the same for all losses."""
    task = detection.DetectionTask(make_config(), CLASSES)
    return task, *jax.jit(task.prepare)(jax.random.key(0), batch)


def draw_predictions(examples, deviation=1.0):
    rng = np.random.default_rng(0)
    shape = examples.target.shape
    logits = rng.normal(-2, 2, (*shape, CLASSES)).astype(np.float32)
    noise = rng.normal(0, deviation, (*shape, 4)).astype(np.float32)
    offsets = np.where(examples.positive[..., None], examples.offsets, 0) + noise
    return Predictions(logits, offsets, {})


def loss_of(predictions, examples, totals, **loss):
    """Returns the loss and its terms by a choice of losses."""
    task = detection.DetectionTask(make_config(**loss), CLASSES)
    return jax.jit(task.loss_of)(predictions, examples, totals)


def test_focal_loss_counts_all_anchors_but_ignored_ones_by_positives(prepared):
    _, examples, totals = prepared
    said = draw_predictions(examples)
    _, terms = loss_of(said, examples, totals)
    counted = ~np.asarray(examples.ignored)
    assert not counted.all()
    labels = np.asarray(examples.target) - 1
    p = 1 / (1 + np.exp(-said.logits.astype(np.float64)))
    positive = labels[..., None] == np.arange(CLASSES)
    p_t = np.where(positive, p, 1 - p)
    weight = np.where(positive, 0.25, 0.75)
    each = -weight * (1 - p_t) ** 2 * np.log(p_t)
    number = np.asarray(examples.positive).sum()
    assert float(totals["positives"]) == number > 3
    expected = each[counted].sum() / number
    np.testing.assert_allclose(terms["classification"], expected, rtol=1e-5)


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_box_loss_is_that_of_the_decoded_boxes_in_pixels(prepared, name):
    task, examples, totals = prepared
    said = draw_predictions(examples)
    loss, terms = loss_of(said, examples, totals, box=name, localization=0.5)
    total = 0.0
    scale = np.float32([*INPUT, *INPUT])
    for i, a in np.argwhere(examples.positive):
        boxes = [
            np.asarray(box_ops.decode(offsets[i, a], task.anchors[a], (0.1, 0.2)))
            for offsets in (said.offsets, np.asarray(examples.offsets))
        ]
        total += iou_losses.LOSSES[name](*(jnp.asarray(box * scale) for box in boxes))
    assert total > 0
    expected = total / totals["positives"]
    np.testing.assert_allclose(terms["localization"], expected, rtol=1e-4)
    np.testing.assert_allclose(
        loss, terms["classification"] + 0.5 * terms["localization"], rtol=1e-6
    )


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_right_offsets_cost_nothing_and_no_gradient_is_infinite(prepared, name):
    task, examples, _ = prepared
    config = make_config(box=name)

    def localization(offsets, examples):
        said = Predictions(jnp.zeros((*offsets.shape[:2], CLASSES)), offsets, {})
        sums = detection_losses.anchor_losses(config, task.anchors, said, examples)
        return sums["localization"]

    both = jax.jit(jax.value_and_grad(localization))
    value, gradient = both(examples.offsets, examples)
    assert value < 1e-5
    assert np.isfinite(gradient).all()
    positive = np.asarray(examples.positive)
    # Offsets that diverge, and targets that are not used.
    for huge in (1e4, -1e4):
        target = np.where(positive[..., None], examples.offsets, np.nan)
        offsets = np.full_like(target, huge)
        value, gradient = both(offsets, examples._replace(offsets=target))
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
        np.testing.assert_array_equal(np.asarray(gradient)[~positive], 0)
    noisy = draw_predictions(examples, deviation=0.3).offsets
    _, gradient = both(noisy, examples)
    assert (np.abs(gradient)[positive].max(axis=1) > 0).all()
    assert np.abs(gradient)[~positive].max() == 0


def test_an_image_without_objects_trains_all_of_its_anchors(prepared):
    task, examples, totals = prepared
    said = draw_predictions(examples)

    def loss(logits):
        return task.loss_of(said._replace(logits=logits), examples, totals)[0]

    gradient = np.asarray(jax.jit(jax.grad(loss))(said.logits))
    assert not np.asarray(examples.positive)[1].any()
    assert (gradient[1] > 0).all()


def test_scores_are_sigmoids(prepared):
    task, examples, _ = prepared
    said = draw_predictions(examples)
    _, scores = jax.jit(task.boxes_and_scores)(said)
    expected = 1 / (1 + np.exp(-said.logits.astype(np.float64)))
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_certain_logits_of_an_object_give_its_detection(prepared, batch):
    task, examples, totals = prepared
    right = np.asarray(examples.target)[..., None] == 1 + np.arange(CLASSES)
    said = Predictions(np.where(right, 9.0, -9.0).astype(np.float32), None, {})
    said = said._replace(offsets=examples.offsets)
    found = jax.jit(task.decode)(said)
    first = np.asarray(found.mask)[0]
    best = {int(label) for label in np.asarray(found.labels)[0][first]}
    assert best == {0, 2}
    assert not np.asarray(found.mask)[1].any()
    np.testing.assert_allclose(
        np.asarray(found.scores)[0][first], 1 / (1 + np.exp(-9)), rtol=1e-5
    )
    loss, _ = jax.jit(task.loss_of)(said, examples, totals)
    assert loss < 1e-3


def test_initial_loss_with_the_prior_is_small(prepared):
    """RetinaNet's reason for it: negatives do not dominate the first steps."""
    _, examples, _ = prepared
    count = examples.target[1].size
    logits = jnp.full((count, CLASSES), -np.log(0.99 / 0.01), jnp.float32)
    none = jnp.zeros(count, jnp.int32)
    small, large = (
        losses.focal_classification_loss(x, none, none > 0, alpha=0.25, gamma=2.0)
        for x in (logits, jnp.zeros_like(logits))
    )
    assert small < 1e-4 * large
