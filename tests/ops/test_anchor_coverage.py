"""Coverage by anchors as placed, against loops over anchors."""

import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.ops import anchor_coverage
from borrow_det.ops import anchors as anchor_ops


def config():
    anchors = base.get_config().anchors
    anchors.strides = (16, 32)
    anchors.sizes = (20.0, 45.0)
    anchors.aspect_ratios = ((1.0, 3.0), (1.0, 0.4))
    return anchors


def random_boxes(count):
    corners = np.random.default_rng(0).uniform(0, 1, (count, 2, 2))
    return np.concatenate([corners.min(1), corners.max(1)], axis=1).astype(np.float32)


def overlap(a, b):
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    common = max(height, 0) * max(width, 0)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return common / (sum(areas) - common)


def test_best_iou_against_a_loop():
    anchors = anchor_ops.make_anchors(config(), (64, 80))
    boxes = random_boxes(30)
    expected = [max(overlap(box, anchor) for anchor in anchors) for box in boxes]
    got = anchor_coverage.best_iou(boxes, anchors)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 256, 257])
def test_any_number_of_objects(count):
    anchors = np.array([[0.2, 0.2, 0.6, 0.6]], np.float32)
    boxes = np.tile(np.float32([[0.2, 0.2, 0.6, 0.4]]), (count, 1))
    boxes[-1:] = anchors
    expected = np.full(count, 0.5)
    expected[-1:] = 1
    got = anchor_coverage.best_iou(boxes, anchors)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def nearest_iou(boxes, anchors, size):
    """The best of all levels."""
    levels = zip(
        anchors.strides, anchor_ops.position_shapes(anchors, size), strict=True
    )
    return np.max(
        [
            anchor_coverage.nearest_iou(boxes, stride, shapes, size, anchors.clip)
            for stride, shapes in levels
        ],
        axis=0,
    )


def boxes_at_borders():
    """Also where the last position may stand outside of the image."""
    return np.float32([[0.9, 0.9, 1, 1], [0, 0, 0.1, 0.05], [0, 0.3, 1, 0.5]])


SIZES = [(64, 64), (64, 80), (72, 56), (300, 300)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("clip", ["none", "sizes"])
def test_the_nearest_anchor_of_a_shape_is_its_best(size, clip):
    settings = config()
    settings.clip = clip
    boxes = np.concatenate([random_boxes(300), boxes_at_borders()])
    expected = anchor_coverage.best_iou(boxes, anchor_ops.make_anchors(settings, size))
    got = nearest_iou(boxes, settings, size)
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_anchors_that_are_clipped_are_nearly_the_best_that_are_found(size):
    settings = config()
    settings.clip = "boxes"
    boxes = np.concatenate([random_boxes(300), boxes_at_borders()])
    expected = anchor_coverage.best_iou(boxes, anchor_ops.make_anchors(settings, size))
    got = nearest_iou(boxes, settings, size)
    assert (got <= expected + 1e-5).all()
    assert (got >= expected - 1e-5).mean() > 0.9
    assert (got >= expected - 0.05).all()
    # Clipping is what these objects gain by.
    settings.clip = "none"
    assert (got >= nearest_iou(boxes, settings, size) - 1e-9).all()
    assert (got > nearest_iou(boxes, settings, size) + 0.01).sum() >= 10


def test_an_object_half_way_between_anchors():
    """Half a stride off along both axes, and on an anchor, counted by hand."""
    boxes = np.float32([[8, 8, 24, 24], [16, 16, 32, 32]]) / 64
    shapes = np.array([[16.0, 16.0]])
    got = anchor_coverage.nearest_iou(boxes, 16, shapes, (64, 64), "none")
    # Centres stand at 8, 24, ...: a box from 16 to 32 is on one, one from 8 to 24 has
    # a quarter of its area in common with each of four.
    np.testing.assert_allclose(got, [64 / (2 * 256 - 64), 1.0], atol=1e-6)
