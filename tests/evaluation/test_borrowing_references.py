"""Attention metrics with references, against a loop over objects and positions."""

import math

import jax
import numpy as np
import pytest

from borrow_det.evaluation import borrowing
from tests.evaluation.attention_loops import descriptors, inside

QUERIES, SOURCES, COUNT = 6, 5, 3
SCALE = 2.0


def boxes(rng, *shape):
    corners = np.sort(rng.uniform(0, 1, (*shape, 2, 2)), axis=-2)
    return corners.reshape(*shape, 4).astype(np.float32)


def case(seed, mask):
    """Returns (P, objects, positions, references) of random boxes."""
    rng = np.random.default_rng(seed)
    own = boxes(rng, 7)
    own[3:, 2:] = own[3:, :2] + 0.25 * (own[3:, 2:] - own[3:, :2])
    objects = borrowing.ImageObjects(
        own,
        rng.integers(0, 2, 7).astype(np.int32),
        rng.random(7) < 0.9,
        np.arange(7) >= 3,
    )
    mask = np.array(mask)
    references = borrowing.ReferenceObjects(
        boxes(rng, COUNT, 4),
        rng.integers(0, 2, (COUNT, 4)).astype(np.int32),
        (rng.random((COUNT, 4)) < 0.8) & mask[:, None],
        mask,
    )
    levels = np.repeat([1, 2], [3, SOURCES - 3])
    positions = borrowing.Positions(
        rng.uniform(0, 1, (QUERIES, 2)).astype(np.float32),
        rng.uniform(0, 1, (SOURCES, 2)).astype(np.float32),
        levels[:, None] == np.arange(3),
    )
    present = np.repeat([True, *mask], SOURCES)
    P = rng.random((QUERIES, (1 + COUNT) * SOURCES)) * present
    P = (P / P.sum(axis=1, keepdims=True)).astype(np.float32)
    return P, objects, positions, references, present


def side(box):
    return math.sqrt(np.prod(box[2:] - box[:2]))


def expected_metrics(P, objects, positions, references, present):
    """Computes the metrics of one image in a loop."""
    images = [
        objects,
        *(jax.tree.map(lambda x, i=i: x[i], references) for i in range(COUNT)),
    ]
    same, other, lent, shares, entropies, levels = [], [], [], [], [], []
    for g, box in enumerate(objects.boxes):
        if not (objects.small[g] and objects.valid[g]):
            continue
        rows = descriptors(box, positions.queries)
        attention = P[rows].mean(axis=0)
        in_same, in_other = np.zeros((2, len(present)), bool)
        for i, image in enumerate(images):
            for h, lender in enumerate(image.boxes):
                if not image.valid[h] or side(lender) < SCALE * side(box):
                    continue
                for t, point in enumerate(positions.sources):
                    if inside(point, lender):
                        alike = image.labels[h] == objects.labels[g]
                        (in_same if alike else in_other)[i * SOURCES + t] = True
        in_other &= ~in_same
        beyond = np.arange(len(present)) >= SOURCES
        if in_same.any():
            same.append((attention[in_same].sum(), in_same.sum() / present.sum()))
            if in_other.any():
                other.append(
                    (attention[in_other].sum(), in_other.sum() / present.sum())
                )
        if (in_same & beyond).any():
            places = in_same & beyond
            lent.append((attention[places].sum(), places.sum() / present.sum()))
        shares.append(attention[beyond].sum())
        entropy = [-sum(p * math.log(p) for p in P[r] if p > 0) for r in rows]
        entropies.append(np.mean(entropy) / math.log(present.sum()))
        of_level = np.tile(positions.source_levels, (1 + COUNT, 1))
        levels.append([attention[of_level[:, m]].sum() for m in (1, 2)])
    found = {"objects": len(same), "share_references": np.mean(shares)}
    for name, values in (("same", same), ("other", other), ("references", lent)):
        mass, places = np.sum(values, axis=0)
        found[f"precision_{name}"] = mass / len(values)
        found[f"positions_{name}"] = places / len(values)
        found[f"lift_{name}"] = mass / places
    found["entropy"] = np.mean(entropies)
    found["share_level2"], found["share_level3"] = np.mean(levels, axis=0)
    found["query_dependence"] = P.var(axis=0).sum() / np.mean((P**2).sum(axis=1))
    return found


def metrics_of(P, objects, positions, references):
    sums = jax.jit(borrowing.attention_sums, static_argnums=3)(
        P, objects, positions, SCALE, references
    )
    sums = jax.tree.map(np.asarray, sums)
    return borrowing.attention_metrics([{0: sums}], {0: (1, 2)})


@pytest.mark.parametrize("mask", [(1, 1, 1), (1, 0, 1)])
@pytest.mark.parametrize("seed", [2, 3, 5])
def test_metrics_equal_those_of_a_loop(seed, mask):
    *arguments, present = case(seed, np.array(mask, bool))
    found = metrics_of(*arguments)
    expected = expected_metrics(*arguments, present)
    assert set(found) == {
        f"attention/{part}{name}" for name in expected for part in ("", "level1/")
    }
    for name, value in expected.items():
        assert found[f"attention/{name}"] == pytest.approx(value, rel=1e-5), name
    assert found["attention/share_level2"] + found["attention/share_level3"] == (
        pytest.approx(1, rel=1e-5)
    )


def test_uniform_attention_has_a_lift_of_one_and_full_entropy():
    _, objects, positions, references, present = case(2, np.array([1, 0, 1], bool))
    P = np.tile(present / present.sum(), (QUERIES, 1)).astype(np.float32)
    found = metrics_of(P, objects, positions, references)
    for name in ("lift_same", "lift_other", "lift_references", "entropy"):
        assert found[f"attention/{name}"] == pytest.approx(1, rel=1e-5), name
    assert found["attention/share_references"] == pytest.approx(2 / 3)


def test_absent_references_change_no_other_figure():
    P, objects, positions, references, _ = case(2, np.zeros(COUNT, bool))
    found = metrics_of(P, objects, positions, references)
    expected = metrics_of(P[:, :SOURCES], objects, positions, None)
    assert found["attention/share_references"] == 0
    assert math.isnan(found["attention/precision_references"])
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6, nan_ok=True), name
