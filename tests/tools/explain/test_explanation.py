"""The attention of single detections: hand-made, and against a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.evaluation import borrowing
from borrow_det.ops import borrow_targets
from borrow_det.ops import boxes as box_ops
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tools.explain import explanation
from borrow_det.tools.explain.explanation import LevelDetections


@pytest.fixture
def make_task(make_tiny_config):
    def make(**borrow):
        config = make_tiny_config()
        config.borrow.update(borrow)
        return DetectionTask(config, 2)

    return make


def found_of(*boxes, labels=None):
    count = len(boxes)
    return LevelDetections(
        np.array(boxes, np.float32),
        np.linspace(0.9, 0.5, count).astype(np.float32),
        np.array(labels or [0] * count, np.int32),
        np.zeros(count, np.int32),
    )


def random_boxes(rng, count):
    low = rng.uniform(0, 0.8, (count, 2))
    return np.concatenate([low, low + rng.uniform(0.02, 0.6, (count, 2))], axis=1)


SMALL = (0.1, 0.1, 0.2, 0.2)  # Contains one center of level 0's 8 x 8.


@pytest.mark.parametrize(
    ("source", "level", "row", "column"),
    [
        # Centers in pixels of 64: (i + 1/2) stride.
        ("deeper", 1, 3, 2),
        ("deeper", 2, 1, 0),
        ("deeper", 3, 0, 0),
        ("same", 0, 7, 5),
        ("deconvolved", 0, 0, 7),
    ],
)
def test_all_attention_on_one_position(make_task, source, level, row, column):
    task = make_task(source=source)
    stride = (8, 16, 32, 64)[level]
    y, x = (row + 0.5) * stride / 64, (column + 0.5) * stride / 64
    levels = {"deeper": (1, 2, 3)}.get(source, (0,))
    counts = {m: (64 // (8, 16, 32, 64)[m]) ** 2 for m in levels}
    t = sum(counts[m] for m in levels if m < level) + row * (64 // stride) + column
    P = np.zeros((64, sum(counts.values())), np.float32)
    P[:, t] = 1
    around = (y - 0.11, x - 0.11, y + 0.11, x + 0.11)
    # A box in the opposite quarter, which contains other positions.
    low = [0.6 if value < 0.5 else 0.05 for value in (y, x)]
    elsewhere = (*low, low[0] + 0.35, low[1] + 0.35)
    found = found_of(SMALL, elsewhere, around)

    borrowed = explanation.explain(task, P, 0, found, 0, count=5)
    (only,) = borrowed.sources
    assert only.level == level
    assert only.center == pytest.approx((y, x), abs=1e-7)
    assert only.weight == 1.0
    assert only.detections == (2,)
    assert borrowed.shares == {m: float(m == level) for m in levels}
    assert borrowed.heat[level][row, column] == 1.0
    assert borrowed.lenders == (1, 2)
    assert borrowed.attention_precision == 1.0
    aside = found_of(SMALL, elsewhere)
    borrowed = explanation.explain(task, P, 0, aside, 0, 5)
    assert borrowed.attention_precision == 0.0
    assert borrowed.positions > 0
    other = found_of(SMALL, elsewhere, around, labels=[0, 1, 1])
    borrowed = explanation.explain(task, P, 0, other, 0, 5)
    assert (borrowed.attention_precision, borrowed.positions) == (None, 0.0)


@pytest.mark.parametrize(
    ("level", "borrow"),
    [
        (0, {}),
        (1, {"levels": (0, 1, 2)}),
        (2, {"levels": (0, 1, 2)}),
        (0, {"from_levels": (2, 3)}),
        (0, {"source": "same"}),
        (0, {"similarity": "dot_product"}),
    ],
)
def test_explanations_match_a_loop_over_positions(make_task, level, borrow):
    task = make_task(**borrow)
    rng = np.random.default_rng(level)
    strides = (8, 16, 32, 64)
    if borrow.get("source") == "same":
        levels = [level]
    else:
        known = borrow.get("from_levels", (1, 2, 3))
        levels = [m for m in range(level + 1, 4) if m in known]
    positions = [
        (m, (r + 0.5) * strides[m] / 64, (c + 0.5) * strides[m] / 64)
        for m in levels
        for r in range(64 // strides[m])
        for c in range(64 // strides[m])
    ]
    R = (64 // strides[level]) ** 2
    P = rng.normal(size=(R, len(positions))).astype(np.float32)
    if borrow.get("similarity") != "dot_product":
        P = np.asarray(jax.nn.softmax(3 * P, axis=1))
    found = found_of(*random_boxes(rng, 6), labels=[0, 0, 1, 0, 1, 0])

    for k, (y0, x0, y1, x1) in enumerate(found.boxes.tolist()):
        grid = [
            ((r + 0.5) * strides[level] / 64, (c + 0.5) * strides[level] / 64)
            for r in range(64 // strides[level])
            for c in range(64 // strides[level])
        ]
        rows = [i for i, (y, x) in enumerate(grid) if y0 <= y <= y1 and x0 <= x <= x1]
        if not rows:
            away = [
                (y - (y0 + y1) / 2) ** 2 + (x - (x0 + x1) / 2) ** 2 for y, x in grid
            ]
            rows = [int(np.argmin(away))]
        weights = [0.0] * len(positions)
        for row in rows:
            total = sum(abs(float(p)) for p in P[row])
            for t, p in enumerate(P[row]):
                weights[t] += abs(float(p)) / total / len(rows)
        shares = dict.fromkeys(levels, 0.0)
        precision, lent = 0.0, 0
        for weight, (m, y, x) in zip(weights, positions, strict=True):
            shares[m] += weight
            if any(
                found.labels[j] == found.labels[k]
                and (b[2] - b[0]) * (b[3] - b[1]) >= 4 * (y1 - y0) * (x1 - x0)
                and b[0] <= y <= b[2]
                and b[1] <= x <= b[3]
                for j, b in enumerate(found.boxes.tolist())
            ):
                precision, lent = precision + weight, lent + 1

        borrowed = explanation.explain(task, P, level, found, k, count=3)
        np.testing.assert_allclose(borrowed.descriptors, [grid[i] for i in rows])
        assert borrowed.shares == pytest.approx(shares)
        assert sum(borrowed.shares.values()) == pytest.approx(1)
        assert borrowed.attention_precision == (
            pytest.approx(precision) if lent else None
        )
        assert borrowed.positions == pytest.approx(lent / len(positions))
        assert borrowed.num_positions == len(positions)
        assert [s.weight for s in borrowed.sources] == pytest.approx(
            sorted(weights, reverse=True)[:3]
        )
        for source in borrowed.sources:
            t = int(np.argmin([abs(w - source.weight) for w in weights]))
            assert (source.level, *source.center) == pytest.approx(positions[t])


def test_lenders_are_those_of_the_matching_loss(make_task):
    task = make_task()
    rng = np.random.default_rng(3)
    found = found_of(*random_boxes(rng, 12), labels=rng.integers(0, 2, 12).tolist())
    centers = task.centers(task.source_levels(0))
    objects = borrow_targets.Objects(
        jnp.asarray(found.boxes), jnp.asarray(found.labels), jnp.ones(12, bool)
    )
    expected = borrow_targets.sources_in(objects, objects, jnp.asarray(centers), 2.0)
    held = np.asarray(box_ops.contains(found.boxes, centers))
    P = np.full((64, len(centers)), 1 / len(centers), np.float32)
    for k in range(12):
        borrowed = explanation.explain(task, P, 0, found, k, 1)
        mine = held[list(borrowed.lenders)].any(axis=0)
        np.testing.assert_array_equal(mine, expected[k])
    assert np.asarray(expected).any(axis=1).sum() >= 2


def test_explanations_match_the_metrics_of_an_evaluation(make_task):
    # One object's attention precision and shares, as the metrics of a split sum them.
    task = make_task()
    rng = np.random.default_rng(4)
    P = rng.normal(size=(64, 21)).astype(np.float32)
    found = found_of(SMALL, (0.3, 0.3, 0.9, 0.8))
    borrowed = explanation.explain(task, P, 0, found, 0, 5)
    levels = task.source_levels(0)
    of_level = np.repeat(levels, [np.prod(task.level_shapes[m]) for m in levels])
    sums = borrowing.attention_sums(
        jnp.asarray(P),
        borrowing.ImageObjects(
            jnp.asarray(found.boxes),
            jnp.asarray(found.labels),
            jnp.array([True, True]),
            jnp.array([True, False]),
        ),
        borrowing.Positions(
            jnp.asarray(task.centers((0,))),
            jnp.asarray(task.centers(levels)),
            jnp.asarray(of_level[:, None] == np.array(levels)),
        ),
        2.0,
    )
    assert float(sums.same.mass) == pytest.approx(
        borrowed.attention_precision, abs=1e-6
    )
    assert float(sums.same.positions) == pytest.approx(borrowed.positions, abs=1e-6)
    np.testing.assert_allclose(sums.levels, list(borrowed.shares.values()), rtol=1e-5)


def test_small_is_an_area_in_pixels_of_the_image():
    boxes = np.array([[0, 0, 0.5, 0.1], [0, 0, 0.5, 0.11]], np.float32)
    # 50 x 20 and 50 x 22 pixels; 32 squared is 1024.
    assert explanation.is_small(boxes, (100, 200), 32).tolist() == [True, False]
    # COCO's range includes its end.
    whole = np.array([[0, 0, 0.5, 0.25]], np.float32)
    assert explanation.is_small(whole, (64, 128), 32).tolist() == [True]


def test_the_color_scale_ends_above_an_even_spread(make_task):
    task = make_task()
    found = found_of(SMALL)
    even = np.full((64, 21), 1 / 21, np.float32)
    borrowed = explanation.explain(task, even, 0, found, 0, 2)
    assert borrowed.scale == pytest.approx(5 / 21)
    even[:, 3] = 1
    borrowed = explanation.explain(task, even, 0, found, 0, 2)
    assert borrowed.scale == pytest.approx(1 / (1 + 20 / 21))


# --- references


def one_hot(task, t, images):
    P = np.zeros((64, 21 * images), np.float32)
    P[:, t] = 1
    return P


def test_attention_to_a_position_of_a_reference(make_task):
    # Position 2 of level 3's 2 x 2 in the second of two references: row 1, column 0.
    task = make_task()
    P = one_hot(task, 2 * 21 + 16 + 2, 3)
    found = found_of(SMALL, (0.5, 0.0, 1.0, 0.5))  # A lender at the same place.
    around, beside = (0.6, 0.1, 0.9, 0.4), (0.0, 0.5, 0.4, 1.0)
    references = [found_of(around), found_of(beside, around, labels=[0, 0])]
    borrowed = explanation.explain(task, P, 0, found, 0, 5, references)
    (only,) = borrowed.sources
    assert (only.reference, only.level, only.weight) == (1, 2, 1.0)
    assert only.center == (0.75, 0.25)
    assert only.detections == (1,)
    assert borrowed.shares == {1: 0, 2: 0, 3: 0}
    assert [r.share for r in borrowed.references] == [0, 1]
    assert borrowed.references[1].heat[2].tolist() == [[0, 0], [1, 0]]
    assert [r.lenders for r in borrowed.references] == [(0,), (0, 1)]
    assert borrowed.lenders == (1,)
    assert borrowed.num_lenders == 4
    assert borrowed.attention_precision == 1.0
    assert borrowed.share_references == borrowed.scale == 1.0
    assert borrowed.sources_in(1) == [(1, only)]
    assert borrowed.sources_in(None) == borrowed.sources_in(0) == []
    # Of another class, or less than twice as large, there is no lender.
    small = (0.65, 0.15, 0.85, 0.34)
    for other in (found_of(around, labels=[1]), found_of(small)):
        nothing = found_of(SMALL)
        P = one_hot(task, 21 + 18, 2)
        borrowed = explanation.explain(task, P, 0, nothing, 0, 5, [other])
        assert borrowed.references[0].lenders == ()
        assert (borrowed.attention_precision, borrowed.positions) == (None, 0.0)
        assert borrowed.sources[0].detections == (0,)


@pytest.mark.parametrize("borrow", [{}, {"from_levels": (2, 3)}])
@pytest.mark.parametrize("count", [1, 3])
def test_explanations_with_references_match_a_loop(make_task, borrow, count):
    task = make_task(**borrow)
    rng = np.random.default_rng(count)
    strides = (8, 16, 32, 64)
    levels = borrow.get("from_levels", (1, 2, 3))
    positions = [
        (image, m, (r + 0.5) * strides[m] / 64, (c + 0.5) * strides[m] / 64)
        for image in range(count + 1)
        for m in levels
        for r in range(64 // strides[m])
        for c in range(64 // strides[m])
    ]
    P = np.asarray(jax.nn.softmax(3 * rng.normal(size=(64, len(positions))), axis=1))
    images = [
        found_of(*random_boxes(rng, n), labels=rng.integers(0, 2, n).tolist())
        for n in (5, 4, 0, 6)[: count + 1]
    ]
    images = [
        image._replace(boxes=image.boxes.reshape(-1, 4).astype("f4"))
        for image in images
    ]
    found, *references = images
    lent_beyond = 0
    for k, (y0, x0, y1, x1) in enumerate(found.boxes.tolist()):
        expected = borrowing.descriptors(
            jnp.asarray(found.boxes[k][None]), jnp.asarray(task.centers((0,)))
        )
        weights = P[np.asarray(expected[0])].mean(axis=0)
        shares = [dict.fromkeys(levels, 0.0) for _ in images]
        precision, lent = 0.0, 0
        for weight, (image, m, y, x) in zip(weights.tolist(), positions, strict=True):
            shares[image][m] += weight
            for j, b in enumerate(images[image].boxes.tolist()):
                if (
                    images[image].labels[j] == found.labels[k]
                    and (b[2] - b[0]) * (b[3] - b[1]) >= 4 * (y1 - y0) * (x1 - x0)
                    and b[0] <= y <= b[2]
                    and b[1] <= x <= b[3]
                ):
                    precision, lent = precision + weight, lent + 1
                    lent_beyond += image > 0
                    break
        borrowed = explanation.explain(task, P, 0, found, k, 6, references)
        assert borrowed.shares == pytest.approx(shares[0])
        assert [r.shares for r in borrowed.references] == [
            pytest.approx(part) for part in shares[1:]
        ]
        total = sum(borrowed.shares.values()) + borrowed.share_references
        assert total == pytest.approx(1)
        assert borrowed.positions == pytest.approx(lent / len(positions))
        assert borrowed.num_positions == len(positions)
        assert borrowed.attention_precision == (
            pytest.approx(precision) if lent else None
        )
        for source, t in zip(borrowed.sources, np.argsort(-weights)[:6], strict=True):
            image, m, y, x = positions[t]
            assert source.reference == (image - 1 if image else None)
            assert (source.level, *source.center) == pytest.approx((m, y, x))
            inside = [
                j
                for j, b in enumerate(images[image].boxes.tolist())
                if b[0] <= y <= b[2] and b[1] <= x <= b[3]
            ]
            assert list(source.detections) == inside
    assert lent_beyond > 0
