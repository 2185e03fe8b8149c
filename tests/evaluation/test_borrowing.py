"""Attention metrics against a loop."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.evaluation import borrowing
from tests.evaluation.attention_loops import descriptors, inside

LEVELS = 3


def grid(side):
    """Returns the centers [side * side, 2] of a grid on the unit square."""
    line = (np.arange(side, dtype=np.float32) + 0.5) / side
    return np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)


@pytest.fixture(scope="module")
def positions():
    """8 x 8 queries; source positions are 4 x 4 of level 2 and 2 x 2 of level 3."""
    levels = np.repeat([1, 2], [16, 4])
    return borrowing.Positions(
        grid(8), np.concatenate([grid(4), grid(2)]), levels[:, None] == np.arange(3)
    )


@pytest.fixture
def objects():
    """Two large and three small objects, a crowd and padding."""
    boxes = [
        [0.0, 0.0, 0.5, 0.5],  # Large, class 0.
        [0.5, 0.5, 1.0, 1.0],  # Large, class 1.
        [0.0, 0.25, 0.5, 0.75],  # A crowd of class 0.
        [0.6, 0.1, 0.8, 0.3],  # Small, class 0.
        [0.7, 0.3, 0.75, 0.35],  # Small, class 1; contains no center.
        [0.8, 0.2, 0.9, 0.3],  # Small, class 2; the only object of its class.
        [0.1, 0.8, 0.2, 0.9],  # Padding.
    ]
    return borrowing.ImageObjects(
        np.array(boxes, np.float32),
        np.array([0, 1, 0, 0, 1, 2, 0], np.int32),
        np.array([1, 1, 0, 1, 1, 1, 0], bool),
        np.array([0, 0, 0, 1, 1, 1, 1], bool),
    )


def attention_sums(P, objects, positions):
    found = jax.jit(borrowing.attention_sums, static_argnums=3)(
        P, objects, positions, 2.0
    )
    return jax.tree.map(np.asarray, found)


def random_scores(seed=0):
    return np.asarray(
        jax.nn.softmax(2 * jax.random.normal(jax.random.key(seed), (64, 20)), axis=1)
    )


def expected_sums(P, objects, positions):
    """Computes the sums of the module's docstring in a loop over objects."""
    P = np.abs(P) / np.abs(P).sum(axis=1, keepdims=True)
    same, other, each = [], [], []
    side = np.sqrt(np.prod(objects.boxes[:, 2:] - objects.boxes[:, :2], axis=1))

    for g, box in enumerate(objects.boxes):
        if not (objects.small[g] and objects.valid[g]):
            continue
        rows = descriptors(box, positions.queries)
        larger = [
            h
            for h in range(len(side))
            if objects.valid[h] and side[h] >= 2 * side[g] and h != g
        ]
        masks = [
            np.array(
                [
                    any(
                        inside(point, objects.boxes[h])
                        for h in larger
                        if (objects.labels[h] == objects.labels[g]) == is_same
                    )
                    for point in positions.sources
                ]
            )
            for is_same in (True, False)
        ]
        masks[1] &= ~masks[0]
        attention = np.mean([P[r] for r in rows], axis=0)
        if masks[0].any():
            same.append((1, attention[masks[0]].sum(), masks[0].mean()))
            if masks[1].any():
                other.append((1, attention[masks[1]].sum(), masks[1].mean()))
        entropy = np.mean([-(P[r] * np.log(P[r])).sum() for r in rows])
        levels = [attention[positions.source_levels[:, m]].sum() for m in range(LEVELS)]
        each.append((1, entropy / np.log(P.shape[1]), *levels))
    dependence = P.var(axis=0).sum() / np.mean((P**2).sum(axis=1))
    return (*(np.sum(x, axis=0) for x in (same, other, each)), dependence)


@pytest.mark.parametrize("negative", [False, True])
def test_sums_equal_those_of_a_loop(objects, positions, negative):
    # Positions in boxes of both classes count for the object's own class.
    boxes = objects.boxes.copy()
    boxes[1, :2] = 0.3
    objects = objects._replace(boxes=boxes)
    P = random_scores()
    if negative:  # Scores of dot_product may be negative.
        P = np.asarray(jax.random.normal(jax.random.key(1), P.shape))
    found = attention_sums(P, objects, positions)
    same, other, each, dependence = expected_sums(P, objects, positions)
    # All three small objects count; two have a lender and larger ones of other classes.
    assert (same[0], other[0], each[0]) == (2, 2, 3)
    np.testing.assert_allclose(found.same, same, rtol=1e-5)
    np.testing.assert_allclose(found.other, other, rtol=1e-5)
    small = [found.objects, found.entropy, *found.levels]
    np.testing.assert_allclose(small, each, rtol=1e-5)
    np.testing.assert_allclose(found.query_dependence, dependence, rtol=1e-5)


def figures(P, objects, positions):
    sums = attention_sums(P, objects, positions)
    return borrowing.attention_metrics([{0: sums}, {0: sums}], {0: (1, 2)})


def test_uniform_attention_has_a_lift_of_one(objects, positions):
    found = figures(np.full((64, 20), 1 / 20, np.float32), objects, positions)
    for prefix in ("attention", "attention/level1"):
        assert found[f"{prefix}/lift_same"] == pytest.approx(1, rel=1e-5)
        assert found[f"{prefix}/lift_other"] == pytest.approx(1, rel=1e-5)
        assert found[f"{prefix}/entropy"] == pytest.approx(1, rel=1e-5)
        assert found[f"{prefix}/query_dependence"] == pytest.approx(0, abs=1e-10)
        # 4 of 16 and 1 of 4 positions are in a quarter of the image.
        assert found[f"{prefix}/precision_same"] == pytest.approx(0.25)
        # The first small object is larger than the tiny second one: 2 more positions.
        assert found[f"{prefix}/positions_other"] == pytest.approx((5 + 7) / 2 / 20)
        assert found[f"{prefix}/share_level2"] == pytest.approx(0.8)
        assert found[f"{prefix}/share_level3"] == pytest.approx(0.2)
        assert found[f"{prefix}/objects"] == 4


def test_attention_to_the_lender_has_a_precision_of_one(objects, positions):
    P = np.zeros((64, 20), np.float32)
    P[:, 0] = 1  # In the large object of class 0, top left.
    objects = objects._replace(small=np.arange(7) == 3)
    found = figures(P, objects, positions)
    assert found["attention/precision_same"] == pytest.approx(1)
    assert found["attention/lift_same"] == pytest.approx(4)  # 5 of 20 positions.
    assert found["attention/precision_other"] == found["attention/lift_other"] == 0
    assert found["attention/entropy"] == pytest.approx(0, abs=1e-6)
    assert found["attention/query_dependence"] == 0
    assert found["attention/share_level2"] == pytest.approx(1)


def test_query_dependence_of_rows_that_differ(objects, positions):
    # Each row attends to one position; each of the 20 positions gets 3 rows.
    P = np.eye(20, dtype=np.float32)[np.arange(60) % 20]
    places = positions._replace(queries=positions.queries[:60])
    found = figures(P, objects, places)
    # The variances sum to 20 (1/20)(19/20); the mean square of a row is 1.
    assert found["attention/query_dependence"] == pytest.approx(19 / 20)


def test_metrics_without_a_level_are_those_of_the_shallowest(objects, positions):
    first = attention_sums(random_scores(0), objects, positions)
    uniform = np.full((64, 20), 1 / 20, np.float32)
    none = objects._replace(small=np.zeros(7, bool))
    second = attention_sums(uniform, none, positions)
    sources = {0: (1, 2), 1: (2,)}
    found = borrowing.attention_metrics([{1: second, 0: first}], sources)
    assert found["attention/level2/objects"] == 0
    assert math.isnan(found["attention/level2/lift_same"])
    assert math.isnan(found["attention/level2/share_level3"])
    assert "attention/level2/share_level2" not in found
    heads = [name for name in found if not name.startswith("attention/level")]
    assert "attention/lift_same" in heads
    for name in heads:
        own = found[name.replace("attention/", "attention/level1/")]
        assert found[name] == own
    assert found["attention/query_dependence"] > 0.1
    assert found["attention/level2/query_dependence"] < 1e-12


def test_a_detector_without_borrowing_has_no_attention_metrics():
    assert borrowing.attention_metrics([{}, {}], {}) == {}


def test_attention_to_one_source_position_has_no_entropy(objects):
    places = borrowing.Positions(
        grid(8), np.full((1, 2), 0.25, np.float32), np.eye(LEVELS, dtype=bool)[2:]
    )
    found = attention_sums(jnp.ones((64, 1)), objects, places)
    assert found.entropy == 0


def test_rows_become_shares_and_a_row_of_zeros_stays_zero():
    P = jnp.array([[0.0, 0.0], [-3.0, 1.0]], jnp.float32)
    assert borrowing.as_shares(P).tolist() == [[0.0, 0.0], [0.75, 0.25]]
