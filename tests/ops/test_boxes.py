"""Box arithmetic against loops and its inverse, with degenerate boxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.ops import boxes as box_ops

VARIANCES = (0.1, 0.2)

iou = jax.jit(box_ops.iou)
encode = jax.jit(box_ops.encode)
decode = jax.jit(box_ops.decode)


def random_boxes(seed, count):
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1)
    return corners.reshape(count, 4).astype(np.float32)


def loop_iou(a, b):
    height = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    width = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    areas = [max(x[2] - x[0], 0) * max(x[3] - x[1], 0) for x in (a, b)]
    union = sum(areas) - height * width
    return height * width / union if union > 0 else 0.0


def test_centers_and_corners_by_hand():
    corners = jnp.array([[0.1, 0.2, 0.5, 0.4]], jnp.float32)
    centers = box_ops.to_centers(corners)
    np.testing.assert_allclose(centers, [[0.3, 0.3, 0.4, 0.2]], atol=1e-6)
    np.testing.assert_allclose(box_ops.to_corners(centers), corners, atol=1e-6)


def test_iou_equals_a_loop():
    a, b = random_boxes(0, 30), random_boxes(1, 40)
    a[0], a[1] = [0.5, 0.5, 0.5, 0.9], [0.9, 0.9, 0.1, 0.1]  # a line; inverted
    b[0], b[1], b[2] = a[0], a[1], a[2]
    expected = [[loop_iou(x, y) for y in b.astype(float)] for x in a.astype(float)]
    got = iou(a, b)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert got[0, 0] == got[1, 1] == 0
    assert got[2, 2] == 1
    np.testing.assert_allclose(box_ops.area(a[:2]), [0, 0])


def test_iou_takes_leading_dimensions():
    a, b = random_boxes(2, 24).reshape(2, 3, 4, 4), random_boxes(3, 30)
    b = b.reshape(2, 3, 5, 4)
    got = iou(a, b)
    assert got.shape == (2, 3, 4, 5)
    np.testing.assert_array_equal(got[1, 2], iou(a[1, 2], b[1, 2]))


def test_iou_of_numpy_boxes_has_their_precision_and_the_same_values():
    a, b = random_boxes(7, 20), random_boxes(8, 30)
    found = box_ops.iou(a.astype(np.float64), b.astype(np.float64))
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float64
    assert box_ops.iou(a, b).dtype == np.float32
    expected = [[loop_iou(x, y) for y in b.astype(float)] for x in a.astype(float)]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(iou(a, b), found, atol=1e-6)
    assert isinstance(box_ops.iou(a, jnp.asarray(b)), jax.Array)


def test_a_margin_is_added_to_every_side():
    # Pixels 3 to 5 are 3 wide, and 5 to 6 are 2 wide: one pixel of four is shared.
    a, b = np.array([[0.0, 3, 0, 5]]), np.array([[0.0, 5, 0, 6], [0, 7, 0, 8]])
    np.testing.assert_array_equal(box_ops.iou(a, b, margin=1.0), [[0.25, 0]])
    np.testing.assert_array_equal(box_ops.iou(a, b), [[0, 0]])


def test_encode_by_hand():
    # Center moved by a quarter of the anchor in y, twice as high, half as wide.
    anchor = box_ops.to_corners(jnp.array([0.5, 0.5, 0.2, 0.4], jnp.float32))
    box = box_ops.to_corners(jnp.array([0.55, 0.5, 0.4, 0.2], jnp.float32))
    log2 = float(np.log(2))
    np.testing.assert_allclose(
        encode(box, anchor, VARIANCES),
        [0.25 / 0.1, 0, log2 / 0.2, -log2 / 0.2],
        atol=1e-5,
    )


def test_decode_is_the_inverse_of_encode():
    boxes, anchors = random_boxes(4, 200), random_boxes(5, 200)
    ratio = (boxes[:, 2:] - boxes[:, :2]) / (anchors[:, 2:] - anchors[:, :2])
    boxes, anchors = (x[(ratio < 50).all(axis=1)] for x in (boxes, anchors))
    offsets = encode(boxes, anchors, VARIANCES)
    got = decode(offsets, anchors, VARIANCES)
    np.testing.assert_allclose(got, boxes, atol=1e-5)


@pytest.mark.parametrize("offset", [25.0, 1e3, np.inf])
def test_decode_clamps_sizes(offset):
    anchor = jnp.array([0.4, 0.4, 0.6, 0.8], jnp.float32)
    offsets = jnp.array([0, 0, offset, offset], jnp.float32)
    got = box_ops.to_centers(decode(offsets, anchor, VARIANCES))
    # At most log(1000 / 16): 62.5 times the anchor.
    size = np.array([0.2, 0.4]) * 62.5
    np.testing.assert_allclose(got, [0.5, 0.6, *size], rtol=1e-5)


def test_degenerate_boxes_have_finite_targets_and_gradients():
    anchors = random_boxes(6, 5)
    boxes = np.float32(
        [
            [0, 0, 0, 0],
            [0.5, 0.5, 0.5, 0.5],
            [0.2, 0.3, 0.2, 0.9],
            [0.9, 0.9, 0.1, 0.1],
            [0, 0, 1, 1],
        ]
    )
    targets = encode(boxes, anchors, VARIANCES)
    assert np.isfinite(targets).all()
    smallest = np.log(1e-6 / (anchors[0, 2:] - anchors[0, :2])) / 0.2
    np.testing.assert_allclose(targets[0, 2:], smallest, rtol=1e-5)

    def total(boxes, offsets):
        encoded = box_ops.encode(boxes, anchors, VARIANCES)
        decoded = box_ops.decode(offsets, anchors, VARIANCES)
        return (encoded + decoded).sum() + box_ops.iou(boxes, boxes).sum()

    offsets = jnp.full((5, 4), 100, jnp.float32)
    gradients = jax.jit(jax.grad(total, argnums=(0, 1)))(boxes, offsets)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_boxes_contain_the_points_between_their_corners():
    boxes = random_boxes(4, 6)
    points = np.random.default_rng(5).uniform(0, 1, (40, 2)).astype(np.float32)
    points[:6] = boxes[:, :2]  # Corners belong to their boxes.
    found = box_ops.contains(jnp.asarray(boxes), jnp.asarray(points))
    for (g, t), inside in np.ndenumerate(np.asarray(found)):
        y_min, x_min, y_max, x_max = boxes[g]
        y, x = points[t]
        assert inside == (y_min <= y <= y_max and x_min <= x <= x_max)
    assert found[np.arange(6), np.arange(6)].all()
    assert 0 < np.mean(found) < 1
