"""Eq. (1) and coverage by anchors, against the overlap of boxes."""

import itertools
import math

import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.errors import InputError
from borrow_det.ops import anchor_design as design
from borrow_det.ops import anchors as anchor_ops

THETAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.85)
STEPS = (1.0, 1.15, 2**0.5, 1.6, 2.0, 2.5, 3.3)


def overlap(size, ratio, anchor_size, anchor_ratio):
    """IoU of centred boxes from their sides; sizes are square roots of areas."""
    width, height = size * np.sqrt(ratio), size / np.sqrt(ratio)
    anchor_width = anchor_size * np.sqrt(anchor_ratio)
    anchor_height = anchor_size / np.sqrt(anchor_ratio)
    common = np.minimum(width, anchor_width) * np.minimum(height, anchor_height)
    return common / (size**2 + anchor_size**2 - common)


def reachable(theta):
    return [step for step in STEPS if step <= 1 / theta]


def test_centered_iou_equals_the_overlap_of_boxes():
    factors = np.geomspace(1 / 20, 20, 81)
    sizes, ratios = np.meshgrid(7 * factors, 1.7 * factors)
    expected = overlap(sizes, ratios, 7.0, 1.7)
    mismatch = np.maximum(sizes / 7, 7 / sizes)
    quotient = np.maximum(ratios / 1.7, 1.7 / ratios)
    got = design.centered_iou(mismatch, quotient)
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    # Both regimes are there: one box inside the other, and boxes that cross.
    inside = quotient <= mismatch**2
    assert 0.2 < inside.mean() < 0.8
    np.testing.assert_allclose(got[inside], 1 / mismatch[inside] ** 2)


@pytest.mark.parametrize(
    ("mismatch", "quotient", "iou"),
    [
        (1, 1, 1),
        (2, 1, 1 / 4),  # 2 x 2 around 1 x 1.
        (2, 4, 1 / 4),  # 4 x 1 around 1 x 1: as far as one holds the other.
        (1, 4, 1 / 3),  # 2 x 1/2 across 1 x 1.
        (2**0.5, 2, 1 / 2),
    ],
)
def test_centered_iou_by_hand(mismatch, quotient, iou):
    assert design.centered_iou(mismatch, quotient) == pytest.approx(iou)


def test_equation_1_gives_the_papers_figures():
    assert design.largest_quotient(2, 0.5) == 2
    assert design.max_aspect_ratio(6, 0.5, 2) == 3
    # Objects that square anchors reach need no others.
    assert design.max_aspect_ratio(1.9, 0.5, 2) == 1
    assert design.aspect_ratios(1 / 6, 6, 2) == pytest.approx((1 / 3, 1, 3))


@pytest.mark.parametrize(
    ("theta", "step"),
    [(theta, step) for theta in THETAS for step in reachable(theta)],
)
def test_largest_quotient_is_the_last_that_reaches_theta(theta, step):
    quotient = design.largest_quotient(step, theta)
    half_way = math.sqrt(step)
    for size, turn in itertools.product((half_way, 1 / half_way), (1, -1)):
        for factor, reaches in ((0.3, True), (0.999, True), (1.001, False)):
            ratio = max(1, quotient * factor) ** turn
            # Where the step is 1 / theta the last is theta itself, but for rounding.
            assert bool(overlap(size, ratio, 1, 1) >= theta - 1e-12) is reaches


@pytest.mark.parametrize("theta", THETAS)
def test_no_aspect_ratio_reaches_theta_if_the_step_is_too_large(theta):
    step = 1 / theta * 1.01
    anchors = np.geomspace(1e-3, 1e3, 2001)
    half_way = math.sqrt(step)
    assert overlap(half_way, 2.0, 1.0, anchors).max() < theta
    with pytest.raises(InputError, match=rf"the largest step for {theta:g} is"):
        design.largest_quotient(step, theta)
    assert design.largest_quotient(1 / theta, theta) >= 1


@pytest.mark.parametrize(
    ("theta", "step"),
    [(0.4, 2**0.5), (0.4, 2.0), (0.4, 2.5), (0.5, 1.6), (0.5, 2.0), (0.6, 1.6)],
)
@pytest.mark.parametrize("largest", [1.2, 3.0, 6.0, 11.0])
def test_equation_1_holds_for_a_ladder_of_anchors(theta, step, largest):
    """Anchors of all ratios up to AR_max reach every object; up to less they do not."""
    limit = design.max_aspect_ratio(largest, theta, step)
    ladder = 10 * step ** np.arange(-1.0, 3)
    objects = np.meshgrid(
        np.geomspace(10, 10 * step, 41), np.geomspace(1 / largest, largest, 41)
    )

    def worst(limit):
        ratios = np.geomspace(1 / limit, limit, 201)
        sizes, ratios = (a.ravel() for a in np.meshgrid(ladder, ratios))
        best = overlap(objects[0][..., None], objects[1][..., None], sizes, ratios)
        return best.max(axis=-1).min()

    assert worst(limit) >= theta - 1e-9
    if limit > 1.05:
        assert worst(limit / 1.02) < theta


@pytest.mark.parametrize("quotient", [1.2, 2.0, 2.25])
@pytest.mark.parametrize(
    ("low", "high"), [(1 / 6, 6), (0.34, 1.64), (0.2, 0.4), (1, 1), (2, 40)]
)
def test_aspect_ratios_are_the_fewest_that_cover_the_interval(low, high, quotient):
    ratios = design.aspect_ratios(low, high, quotient)
    objects = np.geomspace(low, high, 5001)
    off = np.exp(np.abs(np.log(objects[:, None] / np.array(ratios))).min(axis=1))
    assert off.max() <= quotient * (1 + 1e-9)
    # One after the other, each as far on as it may be, needs as many.
    needed, reached = 0, low
    while needed == 0 or reached < high * (1 - 1e-9):
        needed, reached = needed + 1, reached * quotient**2
    assert len(ratios) == needed
    if len(ratios) > 1:
        assert max(ratios) == pytest.approx(high / quotient)
        assert min(ratios) == pytest.approx(low * quotient)


def test_best_centered_iou_equals_the_maximum_over_shapes():
    generator = np.random.default_rng(0)
    sizes, ratios = generator.uniform(3, 90, 50), generator.uniform(0.1, 8, 50)
    shapes = generator.uniform(5, 100, (9, 2))
    anchors = np.sqrt(shapes.prod(axis=1)), shapes[:, 1] / shapes[:, 0]
    expected = overlap(sizes[:, None], ratios[:, None], *anchors).max(axis=1)
    got = design.best_centered_iou(sizes, ratios, shapes)
    np.testing.assert_allclose(got, expected)


def shapes_of(sizes, ratios):
    return np.array([(s / r**0.5, s * r**0.5) for s in sizes for r in ratios])


def test_worst_centered_iou_of_the_papers_anchors_is_theta():
    shapes = shapes_of((32, 64, 128, 256), (1 / 3, 1, 3))
    sizes, worst = design.worst_centered_iou((32 / 2**0.5, 362), (1 / 6, 6), shapes)
    assert worst.min() == pytest.approx(0.5)
    assert sizes[0] == pytest.approx(32 / 2**0.5)
    assert sizes[-1] == pytest.approx(362)
    # Where a size has an anchor of its own, only the aspect ratio is off: c = 1/sqrt 2.
    _, worst = design.worst_centered_iou((64, 64), (1 / 6, 6), shapes)
    np.testing.assert_allclose(worst, 2**-0.5 / (2 - 2**-0.5))


def test_worst_centered_iou_bounds_random_objects():
    generator = np.random.default_rng(1)
    for _ in range(5):
        shapes = generator.uniform(10, 200, (8, 2))
        sizes, worst = design.worst_centered_iou((8, 150), (0.3, 4), shapes)
        assert (np.diff(sizes) > 0).all()
        objects = generator.uniform(8, 150, 4000), generator.uniform(0.3, 4, 4000)
        found = design.best_centered_iou(*objects, shapes).min()
        assert worst.min() <= found + 0.01
        assert worst.min() >= 0.9 * found - 0.05


def two_levels():
    anchors = base.get_config().anchors
    anchors.strides = (16, 32)
    anchors.sizes = (20.0, 45.0)
    anchors.aspect_ratios = ((1.0, 3.0), (1.0, 0.4))
    return anchors


def random_boxes(count):
    corners = np.random.default_rng(0).uniform(0, 1, (count, 2, 2))
    return np.concatenate([corners.min(1), corners.max(1)], axis=1).astype(np.float32)


def corner_iou(a, b):
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    common = max(height, 0) * max(width, 0)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return common / (sum(areas) - common)


def test_best_iou_equals_a_loop():
    anchors = anchor_ops.make_anchors(two_levels(), (64, 80))
    boxes = random_boxes(30)
    expected = [max(corner_iou(box, anchor) for anchor in anchors) for box in boxes]
    got = design.best_iou(boxes, anchors)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 256, 257])
def test_best_iou_takes_any_number_of_objects(count):
    anchors = np.array([[0.2, 0.2, 0.6, 0.6]], np.float32)
    boxes = np.tile(np.float32([[0.2, 0.2, 0.6, 0.4]]), (count, 1))
    boxes[-1:] = anchors
    expected = np.full(count, 0.5)
    expected[-1:] = 1
    got = design.best_iou(boxes, anchors)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def best_nearest_iou(boxes, anchors, size):
    """Returns the best nearest_iou of all levels."""
    levels = zip(
        anchors.strides, anchor_ops.position_shapes(anchors, size), strict=True
    )
    return np.max(
        [
            design.nearest_iou(boxes, stride, shapes, size, anchors.clip)
            for stride, shapes in levels
        ],
        axis=0,
    )


def boxes_at_borders():
    """Boxes at borders, where the last position may be outside of the image."""
    return np.float32([[0.9, 0.9, 1, 1], [0, 0, 0.1, 0.05], [0, 0.3, 1, 0.5]])


INPUT_SIZES = [(64, 64), (64, 80), (72, 56), (300, 300)]


@pytest.mark.parametrize("size", INPUT_SIZES)
@pytest.mark.parametrize("clip", ["none", "sizes"])
def test_nearest_iou_is_exact_for_anchors_that_are_not_clipped(size, clip):
    settings = two_levels()
    settings.clip = clip
    boxes = np.concatenate([random_boxes(300), boxes_at_borders()])
    expected = design.best_iou(boxes, anchor_ops.make_anchors(settings, size))
    got = best_nearest_iou(boxes, settings, size)
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("size", INPUT_SIZES)
def test_nearest_iou_is_a_close_lower_bound_for_clipped_anchors(size):
    settings = two_levels()
    settings.clip = "boxes"
    boxes = np.concatenate([random_boxes(300), boxes_at_borders()])
    expected = design.best_iou(boxes, anchor_ops.make_anchors(settings, size))
    got = best_nearest_iou(boxes, settings, size)
    assert (got <= expected + 1e-5).all()
    assert (got >= expected - 1e-5).mean() > 0.9
    assert (got >= expected - 0.05).all()
    # Clipping raises the overlap of some objects.
    settings.clip = "none"
    assert (got >= best_nearest_iou(boxes, settings, size) - 1e-9).all()
    assert (got > best_nearest_iou(boxes, settings, size) + 0.01).sum() >= 10


def test_nearest_iou_by_hand():
    """An object half a stride off along both axes, and one on an anchor."""
    boxes = np.float32([[8, 8, 24, 24], [16, 16, 32, 32]]) / 64
    shapes = np.array([[16.0, 16.0]])
    got = design.nearest_iou(boxes, 16, shapes, (64, 64), "none")
    # Centers are at 8, 24, ...: a box from 16 to 32 is on one of them, and one from 8
    # to 24 shares a quarter of its area with each of four.
    np.testing.assert_allclose(got, [64 / (2 * 256 - 64), 1.0], atol=1e-6)
