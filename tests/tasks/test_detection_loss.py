"""The loss of a batch against loops written from the equations.

Given predictions replace the network, so that only targets and losses are tested.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.models import detector
from borrow_det.models.matching import Matching
from borrow_det.ops import anchors as anchor_ops
from borrow_det.ops import assignment
from borrow_det.ops import boxes as box_ops
from borrow_det.tasks import detection

SIDE, CLASSES, IMAGES = 64, 3, 5
# Positions of each level at 64 pixels, and anchors at each of them.
POSITIONS, PER_POSITION = (64, 16, 4, 1), (6, 6, 6, 4)


def make_config(**loss):
    config = base.get_config()
    config.input_size = (SIDE, SIDE)
    config.anchors.sizes = (8.0, 16.0, 32.0, 64.0)
    config.augment.enabled = False
    config.loss.update(loss)
    return config


@pytest.fixture(scope="module")
def batch():
    """Small objects beside large ones of their class; the second image is empty.

    In the last one, an object of the second level may borrow, and a small one has
    nothing to borrow from but a difficult object, which does not lend.
    """
    boxes = np.zeros((IMAGES, 4, 4), np.float32)
    boxes[:, 0] = [0.5, 0.45, 0.95, 0.95]
    boxes[:, 1] = [0.1, 0.1, 0.22, 0.23]
    boxes[:, 2] = [0.12, 0.6, 0.3, 0.75]
    boxes[:, 3] = [0.7, 0.05, 0.95, 0.3]
    boxes[4, 0] = [0.02, 0.02, 0.98, 0.98]
    boxes[4, 1] = [0.3, 0.3, 0.56, 0.56]
    boxes[4, 2] = [0.1, 0.6, 0.22, 0.72]
    boxes[4, 3] = [0.5, 0.5, 0.95, 0.95]
    labels = [[0, 0, 1, 0], [0, 0, 0, 0], [2, 2, 2, 1], [1, 0, 1, 1], [1, 1, 0, 0]]
    mask = np.ones((IMAGES, 4), bool)
    mask[0, 3] = mask[1] = False
    ignore = np.zeros((IMAGES, 4), bool)
    ignore[[2, 4], 3] = True
    return {
        "image": np.zeros((IMAGES, SIDE, SIDE, 3), np.uint8),
        "image_size": np.full((IMAGES, 2), SIDE, np.int32),
        "boxes": boxes,
        "labels": np.array(labels, np.int32),
        "box_mask": mask,
        "ignore": ignore,
    }


def say(seed=0, images=IMAGES):
    """Random predictions of a network: logits, offsets, matchings by level."""
    rng = np.random.default_rng(seed)
    anchors = sum(np.multiply(POSITIONS, PER_POSITION))

    def normal(*shape):
        return rng.normal(0, 2, shape).astype(np.float32)

    scores = {
        n: normal(images, POSITIONS[n], sum(POSITIONS[n + 1 :])) for n in (0, 1, 2)
    }
    return {
        "logits": normal(images, anchors, 1 + CLASSES),
        "offsets": normal(images, anchors, 4),
        "scores": scores,
    }


def matching_of(S):
    """The matching whose similarities are S [B, R, T]."""
    batch, queries, positions = S.shape
    K = jnp.broadcast_to(jnp.eye(positions), (batch, positions, positions))
    return Matching(S, K, 1.0, True, queries)


class Parrot:
    """Stands for the model: its parameters are its predictions."""

    def apply(self, variables, image, *, train, references, mutable):
        del image, train, mutable
        said = variables["params"]
        matchings = {n: matching_of(scores) for n, scores in said["scores"].items()}
        return detector.Predictions(said["logits"], said["offsets"], matchings), {}


# Not 1, so that a weight that is lost is seen.
WEIGHTS = {"localization": 0.5, "matching": 2.0}


def make_task(**loss):
    task = detection.DetectionTask(make_config(**loss), CLASSES)
    task.model = Parrot()
    return task


class CompiledTask:
    """The task's functions as the trainer uses them."""

    def __init__(self):
        task = make_task(**WEIGHTS)
        self._prepare = jax.jit(task.prepare)
        self._loss = jax.jit(jax.value_and_grad(task.loss, has_aux=True))

    def prepare(self, batch):
        return self._prepare(jax.random.key(0), batch)

    def loss(self, said, examples, totals):
        """Returns the terms and the gradient of the predictions, as NumPy arrays."""
        (_, (terms, _)), gradient = self._loss(said, {}, examples, totals)
        return jax.tree.map(np.asarray, (terms, gradient))


@pytest.fixture(scope="module")
def task():
    return CompiledTask()


def log_softmax(logits):
    logits = logits.astype(np.float64)
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def assignments(batch):
    """(boxes, labels, objects, Assignment) of each image, by tested functions."""
    config = make_config()
    anchors = anchor_ops.make_anchors(config.anchors, (SIDE, SIDE))
    rules = {"best_anchor": config.loss.best_anchor, "ignored": config.loss.ignored}
    assign = jax.jit(functools.partial(assignment.assign_anchors, **rules))
    for i in range(IMAGES):
        boxes, mask, ignore = (batch[k][i] for k in ("boxes", "box_mask", "ignore"))
        found = jax.tree.map(np.asarray, assign(boxes, mask, ignore, anchors, 0.5))
        yield boxes, batch["labels"][i], mask & ~ignore, found


def expected_terms(said, batch):
    """The three terms and the two counts, object by object."""
    config = make_config()
    anchors = anchor_ops.make_anchors(config.anchors, (SIDE, SIDE))
    sums = {"classification": 0.0, "localization": 0.0, "matching": 0.0}
    positives, descriptors = 0, {n: 0 for n in (0, 1, 2)}
    for i, (boxes, labels, objects, found) in enumerate(assignments(batch)):
        log_p = log_softmax(said["logits"][i])
        target = np.where(found.positive, 1 + labels[found.box_index], 0)
        cost = -log_p[np.arange(len(target)), target]
        candidates = np.flatnonzero(~found.positive & ~found.ignored)
        hardest = candidates[np.argsort(-cost[candidates], kind="stable")]
        count = max(3 * found.positive.sum(), config.loss.min_negatives)
        sums["classification"] += (
            cost[found.positive].sum() + cost[hardest[:count]].sum()
        )

        wanted = box_ops.encode(boxes[found.box_index], anchors, (0.1, 0.2))
        error = np.abs(np.array(said["offsets"][i] - wanted))[found.positive]
        sums["localization"] += np.where(error < 1, error**2 / 2, error - 0.5).sum()
        positives += found.positive.sum()

        for n in (0, 1, 2):
            total, count = level_matching(n, i, said, boxes, labels, objects, found)
            sums["matching"] += total
            descriptors[n] += count
    assert descriptors[0] > 0
    assert descriptors[1] > 0
    counts = {"positives": positives, "descriptors": sum(descriptors.values())}
    return {
        "classification": sums["classification"] / positives,
        "localization": sums["localization"] / positives,
        "matching": sums["matching"] / sum(descriptors.values()),
    }, counts


def level_matching(n, i, said, boxes, labels, objects, found):
    """Returns the sum over the level's descriptors with sources, and their number."""
    probability = np.exp(log_softmax(said["scores"][n][i]))
    maps = [(8, 8), (4, 4), (2, 2), (1, 1)]
    centers = [
        ((row + 0.5) / rows, (column + 0.5) / columns)
        for rows, columns in maps[n + 1 :]
        for row in range(rows)
        for column in range(columns)
    ]
    side = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    start = sum(np.multiply(POSITIONS, PER_POSITION)[:n])
    total, count = 0.0, 0
    for r in range(POSITIONS[n]):
        own = start + r * PER_POSITION[n] + np.arange(PER_POSITION[n])
        own = own[found.positive[own]]
        if not len(own):
            continue
        g = found.box_index[own[found.iou[own].argmax()]]
        lenders = [
            boxes[k]
            for k in np.flatnonzero(objects & (labels == labels[g]))
            if side[k] >= 2 * side[g]
        ]
        mass = sum(
            probability[r, t]
            for t, (y, x) in enumerate(centers)
            if any(b[0] <= y <= b[2] and b[1] <= x <= b[3] for b in lenders)
        )
        if mass > 0:
            total, count = total - np.log(mass), count + 1
    return total, count


def test_loss_terms_equal_a_reference_with_loops(task, batch):
    said = say()
    examples, totals = task.prepare(batch)
    terms, _ = task.loss(said, examples, totals)
    expected, counts = expected_terms(said, batch)
    assert counts["positives"] > 10
    for name, count in counts.items():
        assert float(totals[name]) == count
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-5, err_msg=name)


def test_the_loss_is_the_weighted_sum_of_its_terms(task, batch):
    terms, _ = task.loss(say(), *task.prepare(batch))
    total = terms["classification"] + sum(
        weight * terms[name] for name, weight in WEIGHTS.items()
    )
    np.testing.assert_allclose(terms["loss"], total, rtol=1e-6)


def test_weight_zero_leaves_the_matching_loss_out(batch):
    task = make_task(matching=0.0)
    prepared = jax.eval_shape(task.prepare, jax.random.key(0), batch)
    _, (terms, _) = jax.eval_shape(task.loss, say(), {}, *prepared)
    assert set(terms) == {"loss", "classification", "localization"}


def test_micro_batches_add_up_to_the_batch(task, batch):
    said = say()
    examples, totals = task.prepare(batch)
    whole, _ = task.loss(said, examples, totals)
    parts = []
    for i in range(IMAGES):
        part = jax.tree.map(lambda x, i=i: x[i : i + 1], (said, examples))
        parts.append(task.loss(*part, totals)[0])
    for name, value in whole.items():
        total = sum(float(part[name]) for part in parts)
        np.testing.assert_allclose(total, value, rtol=1e-5, err_msg=name)
    # The second image is empty: it trains its negatives and nothing else.
    assert parts[1]["classification"] > 0
    assert parts[1]["localization"] == parts[1]["matching"] == 0


def test_gradients_are_finite_with_and_without_objects(task, batch):
    said = say()
    _, gradient = task.loss(said, *task.prepare(batch))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    empty = {**batch, "box_mask": np.zeros_like(batch["box_mask"])}
    examples, totals = task.prepare(empty)
    assert totals == {"positives": 1, "descriptors": 1}
    terms, gradient = task.loss(said, examples, totals)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert terms["classification"] > 0
    assert terms["localization"] == terms["matching"] == 0
    # min_negatives anchors of each image, and nothing else.
    touched = np.any(gradient["logits"] != 0, axis=-1).sum(axis=1)
    np.testing.assert_array_equal(touched, make_config().loss.min_negatives)


def test_an_image_ignores_what_is_difficult(task, batch):
    examples, _ = task.prepare(batch)
    np.testing.assert_array_equal(np.any(examples.ignored, axis=1), [0, 0, 1, 0, 1])
    # Nothing answers for the difficult object (label 1) of the third image.
    assert set(np.unique(examples.target[2])) == {0, 3}
