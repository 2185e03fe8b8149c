"""GIoU and CIoU losses against their papers' formulas in float64, and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.ops import iou_losses

LOSSES = {name: jax.jit(loss) for name, loss in iou_losses.LOSSES.items()}


def numpy_parts(a, b):
    """Returns overlap, union and the sides of the hull of two boxes."""
    overlap = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(
        min(a[3], b[3]) - max(a[1], b[1]), 0
    )
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    hull = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
    return overlap, sum(areas) - overlap, hull


def numpy_giou(a, b):
    overlap, union, (height, width) = numpy_parts(a, b)
    return 1 - (overlap / union - (height * width - union) / (height * width))


def numpy_v(a, b):
    angles = [np.arctan((box[3] - box[1]) / (box[2] - box[0])) for box in (a, b)]
    return 4 / np.pi**2 * (angles[0] - angles[1]) ** 2


def numpy_alpha(a, b):
    overlap, union, _ = numpy_parts(a, b)
    v = numpy_v(a, b)
    return v / (1 - overlap / union + v)


def numpy_ciou(a, b, alpha=None):
    """The loss; its gradient has `alpha` as a constant."""
    overlap, union, (height, width) = numpy_parts(a, b)
    centers = [((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in (a, b)]
    distance = np.sum(np.square(np.subtract(*centers)))
    alpha = numpy_alpha(a, b) if alpha is None else alpha
    return (
        1 - overlap / union + distance / (height**2 + width**2) + alpha * numpy_v(a, b)
    )


REFERENCES = {"giou": numpy_giou, "ciou": numpy_ciou}


def pairs(seed=0, count=60):
    """Boxes in pixels: some overlap, some contain the other, some are far apart."""
    rng = np.random.default_rng(seed)
    centers = rng.uniform(50, 250, (2, count, 2))
    centers[1, : count // 2] = centers[0, : count // 2] + rng.normal(0, 10, 2)
    sizes = np.exp(rng.uniform(np.log(8), np.log(150), (2, count, 2)))
    boxes = np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=-1)
    return boxes.astype(np.float32)


@pytest.mark.parametrize("name", LOSSES)
def test_values_equal_the_formula(name):
    boxes, target = pairs()
    overlaps = [numpy_parts(*pair)[0] for pair in zip(boxes, target, strict=True)]
    assert 10 < np.count_nonzero(overlaps) < 50
    expected = [
        REFERENCES[name](*pair)
        for pair in zip(*np.float64([boxes, target]), strict=True)
    ]
    np.testing.assert_allclose(LOSSES[name](boxes, target), expected, rtol=2e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_equal_finite_differences(name):
    boxes, target = pairs()
    got = jax.jit(jax.grad(lambda x: jnp.sum(LOSSES[name](x, target))))(boxes)
    step = 1e-4
    for i, (box, other) in enumerate(zip(*np.float64([boxes, target]), strict=True)):
        reference = REFERENCES[name]
        if name == "ciou":
            alpha = numpy_alpha(box, other)

            def reference(a, b, alpha=alpha):
                return numpy_ciou(a, b, alpha)

        for k in range(4):
            change = step * (np.arange(4) == k)
            slope = reference(box + change, other) - reference(box - change, other)
            np.testing.assert_allclose(
                got[i, k], slope / (2 * step), rtol=2e-3, atol=2e-6
            )


@pytest.mark.parametrize("name", LOSSES)
def test_equal_boxes_cost_nothing(name):
    boxes, _ = pairs()
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(LOSSES[name](x, boxes)))(
        boxes
    )
    np.testing.assert_array_equal(LOSSES[name](boxes, boxes), 0)
    assert value == 0
    assert np.isfinite(gradient).all()


# Two squares of side 2, side by side, with a gap of 2 columns: nothing overlaps, the
# hull is 2 x 6, and the centers are 4 apart.
APART = ([0.0, 0.0, 2.0, 2.0], [0.0, 4.0, 2.0, 6.0])
# A square, and its left half: IoU 1/2, no rest of the hull; the centers are 1/2 apart,
# the diagonal is sqrt(8); arctan(1/2) is 0.46365 and arctan(1) is 0.78540.
HALF = ([0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 2.0, 2.0])
V = 4 / np.pi**2 * (0.4636476 - 0.7853982) ** 2


@pytest.mark.parametrize(
    ("name", "pair", "expected"),
    [
        ("giou", APART, 1 + (12 - 8) / 12),
        ("giou", HALF, 1 / 2),
        ("ciou", APART, 1 + 16 / 40),
        ("ciou", HALF, 1 / 2 + 1 / 32 + V * V / (1 / 2 + V)),
    ],
)
def test_known_values(name, pair, expected):
    got = LOSSES[name](*jnp.array(pair, jnp.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_height_and_width_are_alike():
    """Mirroring both boxes at the diagonal changes nothing."""
    boxes, target = pairs()
    mirrored = [np.asarray(x)[:, [1, 0, 3, 2]] for x in (boxes, target)]
    np.testing.assert_allclose(
        LOSSES["ciou"](boxes, target), LOSSES["ciou"](*mirrored), rtol=1e-4
    )


@pytest.mark.parametrize("name", LOSSES)
def test_degenerate_and_far_boxes_have_finite_gradients(name):
    target = np.tile(np.float32([10, 10, 20, 40]), (7, 1))
    boxes = np.float32(
        [
            [15, 15, 15, 15],  # A point inside.
            [90, 90, 90, 90],  # A point outside.
            [10, 10, 10, 40],  # An edge.
            [15, 10, 15, 90],  # A line.
            [20, 40, 30, 50],  # A corner in common.
            [-1e6, -1e6, -1e6 + 1, -1e6 + 1],  # Far away.
            [-1e6, -1e6, 1e6, 1e6],  # Huge.
        ]
    )
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(LOSSES[name](x, target)))(
        boxes
    )
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    # A target of that kind is possible, too.
    gradient = jax.grad(lambda x: jnp.sum(LOSSES[name](x, boxes)))(target)
    assert np.isfinite(gradient).all()


def test_boxes_apart_are_drawn_together():
    """Both losses have a gradient for boxes whose IoU has none."""
    box, target = jnp.array(APART, jnp.float32)
    for loss in LOSSES.values():
        gradient = jax.grad(loss)(box, target)
        assert gradient[3] < 0  # The right side moves to the right.
