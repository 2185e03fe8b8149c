"""Assignment in commented tables and against loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.errors import InputError
from borrow_det.ops import assignment as assignment_lib

bipartite = jax.jit(assignment_lib.bipartite_match)


@functools.partial(jax.jit, static_argnames=("best_anchor", "ignored"))
def assign(*args, best_anchor="bipartite", ignored="ignored"):
    return assignment_lib.assign_anchors(
        *args, best_anchor=best_anchor, ignored=ignored
    )


def greedy_bipartite(iou):
    """Takes the largest remaining overlap, again and again."""
    left = np.array(iou, np.float64)
    owner = np.full(left.shape[1], -1)
    while left.max(initial=0) > 0:
        row, column = np.unravel_index(left.argmax(), left.shape)
        owner[column] = row
        left[row], left[:, column] = -1, -1
    return owner


# (IoU of objects (rows) with anchors (columns), owner of each anchor)
TABLES = [
    # Each object has its own best anchor.
    ([[0.9, 0.1, 0.0], [0.2, 0.3, 0.0]], [0, 1, -1]),
    # Both want anchor 0: the larger overlap has it, the other takes what is left.
    ([[0.6, 0.4, 0.0], [0.8, 0.1, 0.2]], [1, 0, -1]),
    # The loser's second choice is wanted, too: it falls to its third.
    ([[0.6, 0.5, 0.2], [0.8, 0.1, 0.0], [0.1, 0.7, 0.0]], [1, 2, 0]),
    # A tie over one anchor: the first object has it.
    ([[0.5, 0.2], [0.5, 0.1]], [0, 1]),
    # An object's tie between anchors: the first one.
    ([[0.5, 0.5, 0.5]], [0, -1, -1]),
    # All ties.
    ([[0.5, 0.5], [0.5, 0.5]], [0, 1]),
    # No overlap, no anchor, however lonely.
    ([[0.0, 0.0], [0.0, 0.1]], [-1, 1]),
    # Padding (below zero) owns nothing.
    ([[-1.0, -1.0], [0.3, 0.4]], [-1, 1]),
    # More objects than anchors: the weakest has none.
    ([[0.5, 0.1], [0.4, 0.3], [0.2, 0.2]], [0, 1]),
]


@pytest.mark.parametrize(("iou", "owner"), TABLES)
def test_bipartite_match_in_tables(iou, owner):
    np.testing.assert_array_equal(greedy_bipartite(iou), owner)
    np.testing.assert_array_equal(bipartite(jnp.array(iou, jnp.float32)), owner)


@pytest.mark.parametrize("levels", [3, 10, 1000])
def test_bipartite_match_equals_the_greedy_loop(levels):
    """With few levels of overlap nearly all pairs are tied."""
    rng = np.random.default_rng(levels)
    for _ in range(40):
        iou = (rng.integers(-1, levels, (12, 30)) / levels).astype(np.float32)
        iou[rng.uniform(size=12) < 0.2] = -1
        np.testing.assert_array_equal(bipartite(iou), greedy_bipartite(iou))


def test_bipartite_match_resolves_a_long_chain():
    # Object i prefers anchor i a little to anchor i + 1, which i + 1 wants more: each
    # pass settles one object, from the end.
    count = 12
    iou = np.zeros((count, count), np.float32)
    for i in range(count):
        iou[i, i] = 0.3 + 0.02 * i
        if i + 1 < count:
            iou[i, i + 1] = iou[i, i] + 0.01
    np.testing.assert_array_equal(bipartite(iou), greedy_bipartite(iou))


# (IoU of objects (rows) with anchors (columns), owner of each anchor)
CLAIMED = [
    # Each object has its own best anchor.
    ([[0.9, 0.1, 0.0], [0.2, 0.3, 0.0]], [0, 1, -1]),
    # All want anchor 0: the last has it, however small its overlap, the others none.
    ([[0.8, 0.4, 0.0], [0.6, 0.1, 0.2], [0.1, 0.0, 0.0]], [2, -1, -1]),
    # An object's tie between anchors: the first one, also at no overlap at all.
    ([[0.0, 0.5, 0.5], [0.0, 0.0, 0.0]], [1, 0, -1]),
    # Padding (below zero) claims nothing, and takes nothing from others.
    ([[0.3, 0.4], [-1.0, -1.0]], [-1, 0]),
]


@pytest.mark.parametrize(("iou", "owner"), CLAIMED)
def test_claim_each_in_tables(iou, owner):
    found = jax.jit(assignment_lib.claim_each)(jnp.array(iou, jnp.float32))
    np.testing.assert_array_equal(found, owner)


def test_claim_each_equals_a_loop():
    rng = np.random.default_rng(0)
    claim = jax.jit(assignment_lib.claim_each)
    for _ in range(40):
        iou = (rng.integers(0, 5, (12, 20)) / 5).astype(np.float32)
        iou[rng.uniform(size=12) < 0.3] = -1
        owner = np.full(20, -1)
        for row in range(12):
            if iou[row].max() >= 0:
                owner[iou[row].argmax()] = row
        np.testing.assert_array_equal(claim(iou), owner)


def numpy_iou(a, b):
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = np.prod(np.maximum(high - low, 0), axis=-1)
    area_a, area_b = (np.prod(x[:, 2:] - x[:, :2], axis=-1) for x in (a, b))
    union = area_a[:, None] + area_b[None] - overlap
    return overlap / np.maximum(union, 1e-12), overlap / area_b[None]


def loop_assign(boxes, valid, ignore, anchors, threshold):
    """Caffe's rule, anchor by anchor."""
    iou, inside = numpy_iou(boxes.astype(np.float64), anchors.astype(np.float64))
    target = valid & ~ignore
    owner = greedy_bipartite(np.where(target[:, None], iou, -1))
    index, positive, ignored, overlap = [], [], [], []
    for a in range(len(anchors)):
        objects = [g for g in range(len(boxes)) if target[g]]
        best = max(objects, key=lambda g: (iou[g, a], -g), default=None)
        chosen = owner[a] if owner[a] >= 0 else best
        matched = owner[a] >= 0 or (best is not None and iou[best, a] >= threshold)
        hidden = any(
            inside[g, a] >= threshold
            for g in range(len(boxes))
            if valid[g] and ignore[g]
        )
        index.append(chosen if matched else 0)
        positive.append(matched)
        ignored.append(hidden and not matched)
        overlap.append(iou[chosen, a] if matched else 0)
    return index, positive, ignored, overlap


def random_boxes(rng, count):
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1)
    return corners.reshape(count, 4).astype(np.float32)


def test_assignment_equals_a_loop():
    for seed in range(15):
        rng = np.random.default_rng(seed)
        boxes, anchors = random_boxes(rng, 8), random_boxes(rng, 150)
        valid, ignore = rng.uniform(size=8) < 0.7, rng.uniform(size=8) < 0.3
        got = assign(boxes, valid, ignore, anchors, 0.4)
        expected = loop_assign(boxes, valid, ignore, anchors, 0.4)
        for field, value in zip(got._fields, expected, strict=True):
            np.testing.assert_allclose(
                getattr(got, field), value, atol=1e-5, err_msg=f"{field}, seed {seed}"
            )
        # No object without an anchor, if it touches any.
        iou, _ = numpy_iou(boxes, anchors)
        for g in np.flatnonzero(valid & ~ignore & (iou.max(axis=1) > 0)):
            assert np.any(got.positive & (got.box_index == g))


# Anchors, all one high, on a line.
LINE = np.float32([[0, 0, 1, 4], [0, 2, 1, 6], [0, 4, 1, 8], [0, 10, 1, 14]])


def spans(*pairs):
    return np.float32([[0, low, 1, high] for low, high in pairs])


def test_anchors_above_the_threshold_and_best_anchors_are_positive():
    # Object 0 covers [1, 5]: IoU 3/5 with anchors 0 and 1, 1/7 with 2.
    # Object 1, [9, 17], overlaps anchor 3 by 4/8 = 0.5 exactly.
    got = assign(spans((1, 5), (9, 17)), np.ones(2, bool), np.zeros(2, bool), LINE, 0.5)
    np.testing.assert_array_equal(got.positive, [True, True, False, True])
    np.testing.assert_array_equal(got.box_index, [0, 0, 0, 1])
    np.testing.assert_allclose(got.iou, [0.6, 0.6, 0, 0.5], atol=1e-6)
    # A higher threshold leaves each object its best anchor, the first of equals.
    got = assign(spans((1, 5), (9, 17)), np.ones(2, bool), np.zeros(2, bool), LINE, 0.7)
    np.testing.assert_array_equal(got.positive, [True, False, False, True])


def test_an_iou_equal_to_the_threshold_is_positive():
    # [0, 8] is twice as long as each of the three anchors in it: 0.5 with all.
    got = assign(spans((0, 8)), np.ones(1, bool), np.zeros(1, bool), LINE, 0.5)
    np.testing.assert_array_equal(got.positive, [True, True, True, False])


def test_two_objects_with_the_same_best_anchor_both_get_one():
    # Both are nearest to anchor 0 (IoU 1 and 3/4); the second moves to anchor 1,
    # though that one overlaps the first object more (2/6 over 1/6).
    got = assign(spans((0, 4), (0, 3)), np.ones(2, bool), np.zeros(2, bool), LINE, 0.5)
    np.testing.assert_array_equal(got.positive, [True, True, False, False])
    np.testing.assert_array_equal(got.box_index, [0, 1, 0, 0])
    np.testing.assert_allclose(got.iou, [1, 1 / 6, 0, 0], atol=1e-6)


def test_of_two_objects_with_the_same_best_anchor_the_last_claims_it():
    # As above, but the second has taken anchor 0; the first, which overlaps no other
    # anchor by half, is left without.
    both = np.ones(2, bool)
    got = assign(spans((0, 4), (0, 3)), both, ~both, LINE, 0.5, best_anchor="each")
    np.testing.assert_array_equal(got.positive, [True, False, False, False])
    np.testing.assert_array_equal(got.box_index, [1, 0, 0, 0])
    np.testing.assert_allclose(got.iou, [0.75, 0, 0, 0], atol=1e-6)
    # An object that no anchor touches claims the first: it takes it from the other.
    got = assign(spans((0, 4), (50, 60)), both, ~both, LINE, 0.5, best_anchor="each")
    np.testing.assert_array_equal(got.box_index, [1, 0, 0, 0])
    np.testing.assert_allclose(got.iou, [0, 0, 0, 0])
    # By the other rule it goes without, and the first keeps what is its own.
    got = assign(spans((0, 4), (50, 60)), both, ~both, LINE, 0.5)
    np.testing.assert_array_equal(got.box_index, 0)
    np.testing.assert_array_equal(got.positive, [True, False, False, False])


def test_padding_and_ignored_boxes_claim_no_anchor():
    boxes = spans((2, 6), (2, 6), (10, 14))
    valid, ignore = np.array([True, False, True]), np.array([False, False, True])
    got = assign(boxes, valid, ignore, LINE, 0.5, best_anchor="each")
    np.testing.assert_array_equal(got.positive, [False, True, False, False])
    np.testing.assert_array_equal(got.box_index, 0)


# Of the anchors of LINE: 1 is object 0's best, 3 lies on the ignored box.
@pytest.mark.parametrize(
    ("rule", "positive", "ignored_anchors"),
    [("ignored", [1], [3]), ("negative", [1], []), ("positive", [1, 3], [])],
)
def test_ignored_boxes_follow_the_rule(rule, positive, ignored_anchors):
    boxes, ignore = spans((2, 6), (10, 14), (10, 14)), np.array([False, True, True])
    valid = np.array([True, True, False])
    got = assign(boxes, valid, ignore, LINE, 0.5, ignored=rule)
    np.testing.assert_array_equal(np.flatnonzero(got.positive), positive)
    np.testing.assert_array_equal(np.flatnonzero(got.ignored), ignored_anchors)
    np.testing.assert_array_equal(got.box_index[3], 1 if rule == "positive" else 0)


@pytest.mark.parametrize("field", ["best_anchor", "ignored"])
def test_unknown_rules_raise_an_error_with_their_name(field):
    none = np.zeros(1, bool)
    with pytest.raises(InputError, match=rf"loss\.{field} is 'best'"):
        assign(spans((0, 4)), none, none, LINE, 0.5, **{field: "best"})


def test_padding_and_ignored_boxes_have_no_positives():
    boxes = spans((0, 4), (2, 6), (9, 20))
    # The first is padding, the third ignored: anchor 3 lies in it with all its area.
    valid, ignore = np.array([False, True, True]), np.array([False, False, True])
    got = assign(boxes, valid, ignore, LINE, 0.5)
    np.testing.assert_array_equal(got.positive, [False, True, False, False])
    np.testing.assert_array_equal(got.box_index, [0, 1, 0, 0])
    np.testing.assert_array_equal(got.ignored, [False, False, False, True])
    # An ignored box that is padding hides nothing; a positive anchor is not ignored.
    got = assign(boxes, np.array([False, True, False]), ignore, LINE, 0.5)
    assert not got.ignored.any()
    got = assign(
        spans((2, 6), (0, 20)), np.ones(2, bool), np.array([False, True]), LINE, 0.5
    )
    np.testing.assert_array_equal(got.ignored, [True, False, True, True])


def test_an_image_without_objects_has_only_negatives():
    none = np.zeros(3, bool)
    got = assign(spans((0, 4), (2, 6), (9, 20)), none, none, LINE, 0.5)
    assert not got.positive.any()
    assert not got.ignored.any()
    np.testing.assert_array_equal(got.box_index, 0)
    np.testing.assert_array_equal(got.iou, 0)


def test_a_batch_is_assigned_image_by_image():
    rng = np.random.default_rng(0)
    boxes = random_boxes(rng, 24).reshape(3, 8, 4)
    valid, ignore = rng.uniform(size=(2, 3, 8)) < [[[0.7]], [[0.3]]]
    anchors = random_boxes(rng, 60)
    many = jax.vmap(assign, in_axes=(0, 0, 0, None, None))
    batch = many(boxes, valid, ignore, anchors, 0.4)
    for i in range(3):
        single = assign(boxes[i], valid[i], ignore[i], anchors, 0.4)
        for field in single._fields:
            np.testing.assert_array_equal(
                getattr(batch, field)[i], getattr(single, field)
            )
