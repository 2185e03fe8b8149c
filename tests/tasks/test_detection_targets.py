"""Targets with references, against a loop over objects, references and positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.models import detector
from borrow_det.models.matching import Matching
from borrow_det.tasks import detection

SIDE = 64
# (rows, columns, stride) of the levels that the shallowest one borrows from.
GRIDS = ((4, 4, 16), (2, 2, 32), (1, 1, 64))
POSITIONS = sum(rows * columns for rows, columns, _ in GRIDS)


@pytest.fixture(scope="module")
def config():
    config = base.get_config()
    config.input_size = config.dataset.canvas = (SIDE, SIDE)
    config.anchors.sizes = (8.0, 16.0, 32.0, 64.0)
    config.augment.enabled = False
    config.model.width = 1 / 64
    config.borrow.levels = (0,)
    config.references.kind = "group"
    config.references.count = 3
    return config


@pytest.fixture(scope="module")
def batch():
    """Two images with two small objects each, and large ones in their references."""
    rng = np.random.default_rng(0)
    small = np.array([[0.1, 0.1, 0.25, 0.25], [0.6, 0.6, 0.75, 0.7]], np.float32)
    boxes = np.stack([small, small + 0.05])
    low = rng.uniform(0, 0.4, (2, 3, 2, 2)).astype(np.float32)
    sides = rng.uniform(0.15, 0.6, (2, 3, 2, 2)).astype(np.float32)
    return {
        "image": np.zeros((2, SIDE, SIDE, 3), np.uint8),
        "image_size": np.full((2, 2), SIDE, np.int32),
        "boxes": boxes,
        "labels": np.array([[0, 1], [1, 2]], np.int32),
        "box_mask": np.ones((2, 2), bool),
        "ignore": np.zeros((2, 2), bool),
        "reference_image": np.zeros((2, 3, SIDE, SIDE, 3), np.uint8),
        "reference_size": np.full((2, 3, 2), SIDE, np.int32),
        "reference_boxes": np.concatenate([low, low + sides], axis=-1),
        "reference_labels": np.array(
            [[[0, 1], [1, 1], [0, 0]], [[1, 2], [2, 1], [0, 2]]], np.int32
        ),
        "reference_box_mask": np.array(
            [[[1, 1], [1, 0], [1, 1]], [[1, 1], [1, 1], [1, 1]]], bool
        ),
        "reference_ignore": np.array(
            [[[0, 0], [0, 0], [0, 1]], [[0, 0], [1, 0], [0, 0]]], bool
        ),
        "reference_mask": np.array([[1, 1, 1], [1, 1, 0]], bool),
    }


@pytest.fixture(scope="module")
def prepared(config, batch):
    task = detection.DetectionTask(config, 3)
    return task, *jax.jit(task.prepare)(jax.random.key(0), batch)


def side_of(box):
    return np.sqrt((box[2] - box[0]) * (box[3] - box[1]))


def sources_by_loop(batch, b, g, n):
    """Returns the source positions of object g of image b in its reference n."""
    found = np.zeros(POSITIONS, bool)
    if not batch["reference_mask"][b, n]:
        return found
    for k, box in enumerate(batch["reference_boxes"][b, n]):
        counts = batch["reference_box_mask"][b, n, k]
        counts &= ~batch["reference_ignore"][b, n, k]
        same = batch["reference_labels"][b, n, k] == batch["labels"][b, g]
        if not (counts and same and side_of(box) >= 2 * side_of(batch["boxes"][b, g])):
            continue
        centers = [
            ((row + 0.5) * stride / SIDE, (column + 0.5) * stride / SIDE)
            for rows, columns, stride in GRIDS
            for row in range(rows)
            for column in range(columns)
        ]
        for t, (y, x) in enumerate(centers):
            found[t] |= box[0] <= y <= box[2] and box[1] <= x <= box[3]
    return found


def test_sources_in_references_follow_the_own_ones(batch, prepared):
    _, examples, totals = prepared
    (targets,) = examples.borrow.values()
    found = np.asarray(targets.sources).reshape(2, 2, 4, POSITIONS)
    assert not found[:, :, 0].any()  # No large object in the images themselves.
    expected = np.array(
        [
            [[sources_by_loop(batch, b, g, n) for n in range(3)] for g in range(2)]
            for b in range(2)
        ]
    )
    np.testing.assert_array_equal(found[:, :, 1:], expected)
    assert expected.any(axis=-1).sum() >= 3
    assert not expected.all(axis=(1, 2, 3)).any()
    # Descriptors count whose object has a source position in some image.
    has_source = expected.any(axis=(2, 3))
    counted = np.asarray(targets.counts)
    objects = np.asarray(targets.box_index)
    for b in range(2):
        assert set(objects[b][counted[b]]) == set(np.flatnonzero(has_source[b]))
    assert int(totals["descriptors"]) == counted.sum() > 0


def test_matching_loss_counts_the_attention_in_lenders_of_references(prepared):
    task, examples, totals = prepared
    (targets,) = examples.borrow.values()
    batch, rows = targets.counts.shape
    columns = 4 * POSITIONS
    S = np.random.default_rng(1).normal(0, 2, (batch, rows, columns))
    S = S.astype(np.float32)
    mask = np.asarray(examples.references.mask)
    own = np.ones((batch, 1), bool)
    present = np.repeat(np.concatenate([own, mask], axis=1), POSITIONS, axis=1)
    K = jnp.broadcast_to(jnp.eye(columns), (batch, columns, columns))
    matching = Matching(
        jnp.asarray(S), K, 1.0, True, rows, jnp.asarray(present), POSITIONS
    )
    anchors = len(task.anchors)
    said = detector.Predictions(
        jnp.zeros((batch, anchors, 4)), jnp.zeros((batch, anchors, 4)), {0: matching}
    )
    _, terms = task.loss_of(said, examples, totals)

    expected, count = 0.0, 0
    for b, r in np.argwhere(np.asarray(targets.counts)):
        weights = np.exp(S[b, r].astype(np.float64)) * present[b]
        sources = np.asarray(targets.sources)[b, targets.box_index[b, r]]
        expected -= np.log(weights[sources].sum() / weights.sum())
        count += 1
    np.testing.assert_allclose(terms["matching"], expected / count, rtol=1e-5)


def test_the_most_attended_lender_is_chosen_among_those_of_image_and_references(
    config, batch, prepared
):
    _, examples, _ = prepared
    (targets,) = examples.borrow.values()
    assert targets.lenders is None
    one = config.copy_and_resolve_references()
    one.loss.matching_lenders = "most_attended"
    made, _ = detection.DetectionTask(one, 3).prepare(jax.random.key(0), batch)
    lenders = made.borrow[0].lenders
    # Two objects in each of four images, and the positions of each image.
    assert lenders.lend.shape == (2, 2, 4 * 2)
    inside = np.array(lenders.inside).reshape(2, 4, 2, 4, POSITIONS)
    images = np.arange(4)
    assert inside[:, images, :, images].any()
    inside[:, images, :, images] = False
    assert not inside.any()  # No object has a position in another image.
    np.testing.assert_array_equal(lenders.sources, targets.sources)


def test_reach_leaves_out_far_lenders_of_the_image_but_none_of_references(
    config, batch
):
    large = np.float32([[0.3, 0.1, 0.8, 0.6]] * 2)[:, None]  # Its center: (0.55, 0.35).
    batch = dict(batch, boxes=np.concatenate([batch["boxes"], large], axis=1))
    batch["labels"] = np.array([[0, 1, 0], [1, 2, 1]], np.int32)
    for name in ("box_mask", "ignore"):
        batch[name] = np.pad(batch[name], ((0, 0), (0, 1)), mode="edge")
    counts = []
    for reach in (0.3, 0.5, 1.0):
        near = config.copy_and_resolve_references()
        near.loss.matching_reach = reach
        made, _ = detection.DetectionTask(near, 3).prepare(jax.random.key(0), batch)
        sources = np.asarray(made.borrow[0].sources).reshape(2, 3, 4, POSITIONS)
        # Object 0 of both images is 0.375 and 0.325 away from the large one.
        counts.append((sources[:, 0, 0].any(axis=-1).sum(), sources[:, :, 1:].sum()))
    assert [own for own, _ in counts] == [0, 2, 2]
    assert counts[0][1] == counts[1][1] == counts[2][1] > 0
