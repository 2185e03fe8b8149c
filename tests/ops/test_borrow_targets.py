"""Targets of matching against loops and by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from borrow_det.ops import borrow_targets
from borrow_det.ops.assignment import Assignment


@jax.jit
def sources(boxes, labels, valid, centers, scale):
    objects = borrow_targets.Objects(boxes, labels, valid)
    return borrow_targets.sources_in(objects, objects, centers, scale)


objects_of = jax.jit(borrow_targets.descriptor_objects, static_argnums=(1, 2, 3))


def random_boxes(rng, count):
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1)
    return corners.reshape(count, 4).astype(np.float32)


def test_sources_equal_a_loop():
    rng = np.random.default_rng(0)
    centers = rng.uniform(0, 1, (40, 2)).astype(np.float32)
    boxes = random_boxes(rng, 10)
    boxes[0], boxes[1] = [0.5, 0.5, 0.5, 0.5], [0.5, 0.2, 0.5, 0.9]  # no area
    labels = rng.integers(0, 2, 10).astype(np.int32)
    valid = rng.uniform(size=10) < 0.8
    valid[:2] = True
    got = sources(boxes, labels, valid, centers, 2.0)
    side = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    expected = np.zeros((10, 40), bool)
    for g in range(10):
        for other in range(10):
            if not (valid[g] and valid[other] and labels[g] == labels[other]):
                continue
            if side[g] == 0 or side[other] < 2 * side[g]:
                continue
            for t, (y, x) in enumerate(centers):
                low, high = boxes[other, :2], boxes[other, 2:]
                inside = low[0] <= y <= high[0] and low[1] <= x <= high[1]
                expected[g, t] |= inside
    np.testing.assert_array_equal(got, expected)
    assert expected.any()


def test_an_object_of_exactly_twice_the_side_lends():
    boxes = np.float32([[0, 0, 0.25, 0.25], [0.5, 0.5, 1, 1], [0, 0.5, 0.4375, 1]])
    centers = np.float32([[0.75, 0.75], [0.25, 0.75]])
    got = sources(boxes, np.zeros(3, np.int32), np.ones(3, bool), centers, 2.0)
    # The third is 1.87 times as large: too small to lend.
    np.testing.assert_array_equal(got, [[True, False], [False, False], [False, False]])


def test_a_descriptor_takes_the_object_that_its_anchors_overlap_most():
    # Two levels; the second has 3 positions of 2 anchors, from anchor 4 on.
    assignment = Assignment(
        box_index=jnp.array([9, 9, 9, 9, 5, 6, 7, 8, 3, 4], jnp.int32),
        positive=jnp.array([1, 1, 1, 1, 1, 1, 0, 1, 0, 0], bool),
        ignored=jnp.zeros(10, bool),
        iou=jnp.array([1, 1, 1, 1, 0.5, 0.6, 0, 0.1, 0, 0], jnp.float32),
    )
    index, has_one = objects_of(assignment, 4, 3, 2)
    np.testing.assert_array_equal(has_one, [True, True, False])
    np.testing.assert_array_equal(index[:2], [6, 8])
    tied = assignment._replace(iou=jnp.full(10, 0.5, jnp.float32))
    np.testing.assert_array_equal(objects_of(tied, 4, 3, 2)[0][:2], [5, 8])


def test_twice_the_side_in_pixels_lends_after_normalization():
    side = 640.0
    small = np.arange(3, 120, dtype=np.float32)
    corners = np.zeros((len(small), 2, 4), np.float32)
    corners[:, 0, 2:] = small[:, None] / np.float32(side)
    corners[:, 1, :2] = 0.4
    corners[:, 1, 2:] = 0.4 + 2 * small[:, None] / np.float32(side)
    centers = np.float32([[0.4001, 0.4001]])
    for boxes in corners:
        found = sources(boxes, np.zeros(2, int), np.ones(2, bool), centers, 2.0)
        assert found.tolist() == [[True], [False]]
        found = sources(boxes, np.zeros(2, int), np.ones(2, bool), centers, 2.001)
        assert not found.any()


def test_sources_in_another_image_equal_a_loop():
    rng = np.random.default_rng(1)
    centers = rng.uniform(0, 1, (30, 2)).astype(np.float32)
    small, large = (
        borrow_targets.Objects(
            random_boxes(rng, count),
            rng.integers(0, 2, count).astype(np.int32),
            rng.uniform(size=count) < 0.8,
        )
        for count in (9, 6)
    )
    small.boxes[:, 2:] = small.boxes[:, :2] + 0.3 * (
        small.boxes[:, 2:] - small.boxes[:, :2]
    )
    got = jax.jit(borrow_targets.sources_in)(small, large, centers, 2.0)
    expected = np.zeros((9, 30), bool)
    for g, borrower in enumerate(small.boxes):
        for h, lender in enumerate(large.boxes):
            own, side = (
                np.sqrt(np.prod(box[2:] - box[:2])) for box in (borrower, lender)
            )
            if not (small.valid[g] and large.valid[h] and side >= 2 * own):
                continue
            if small.labels[g] == large.labels[h]:
                for t, center in enumerate(centers):
                    inside = (lender[:2] <= center) & (center <= lender[2:])
                    expected[g, t] |= inside.all()
    np.testing.assert_array_equal(got, expected)
    assert 0 < expected.sum() < expected.size / 2


def test_boxes_are_in_reach_by_the_distance_of_their_centers():
    boxes = np.float32([[0, 0, 0.2, 0.2], [0.3, 0.4, 0.5, 0.6], [0.8, 0.8, 1, 1]])
    # The centers (0.1, 0.1), (0.4, 0.5) and (0.9, 0.9) are 0.4, 0.5 and 0.8 apart.
    near = borrow_targets.in_reach(boxes, 0.41)
    np.testing.assert_array_equal(near, [[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    assert not borrow_targets.in_reach(boxes, 0.39)[0, 1]
    assert borrow_targets.in_reach(np.float32([[0, 0, 0, 0], [1, 1, 1, 1]]), 1.0).all()
