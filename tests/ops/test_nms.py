"""NMS against a greedy loop, and cases worked out by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.ops import nms

THRESHOLDS = (0.3, 0.45, 0.5, 0.7)
COUNT = 96  # Boxes in every picture, so that one program serves all tests.


def numpy_iou(a, b):
    """IoU of two boxes in float32, with the operations of SSD's formula."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    size_a, size_b = np.maximum(a[2:] - a[:2], 0), np.maximum(b[2:] - b[:2], 0)
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    height, width = np.maximum(high - low, 0)
    union = size_a[0] * size_a[1] + size_b[0] * size_b[1] - height * width
    return height * width / union if union > 0 else np.float32(0)


def greedy_suppress(boxes, valid, iou):
    kept = []
    for i in range(len(boxes)):
        if valid[i] and all(numpy_iou(boxes[i], boxes[j]) <= iou for j in kept):
            kept.append(i)
    return np.isin(np.arange(len(boxes)), kept)


def greedy_nms(boxes, scores, *, score, iou, max_per_class, max_total):
    """All detections of one image as rows (score, label, box, its index)."""
    found = []
    for label in range(scores.shape[1]):
        column = scores[:, label]
        candidates = [i for i in range(len(boxes)) if column[i] > score]
        candidates.sort(key=lambda i: (-column[i], i))
        candidates = candidates[:max_per_class]
        keep = greedy_suppress(boxes[candidates], [True] * len(candidates), iou)
        kept = np.array(candidates, int)[keep]
        found += [(column[i], label, boxes[i], i) for i in kept]
    found.sort(key=lambda row: (-row[0], row[3], row[1]))
    return found[:max_total]


def random_boxes(rng, count, side=(0.05, 0.5)):
    center = rng.uniform(0, 1, (count, 2))
    size = rng.uniform(*side, (count, 2))
    return np.concatenate([center - size / 2, center + size / 2], 1).astype(np.float32)


def clustered(rng):
    base = random_boxes(rng, COUNT // 8, (0.2, 0.4)).repeat(8, axis=0)
    return base + rng.normal(0, 0.03, base.shape).astype(np.float32)


def nested(rng):
    """Boxes around the same few centres, each within the next."""
    center = rng.uniform(0.3, 0.7, (4, 1, 2))
    half = np.linspace(0.02, 0.3, COUNT // 4)[None, :, None]
    boxes = np.concatenate([center - half, center + half], -1)
    return rng.permutation(boxes.reshape(-1, 4)).astype(np.float32)


def degenerate(rng):
    """Points, lines, inverted boxes and identical copies among ordinary ones."""
    boxes = random_boxes(rng, COUNT)
    boxes[:10, 2:] = boxes[:10, :2]
    boxes[10:20, 3] = boxes[10:20, 1]
    boxes[20:30] = boxes[20:30][:, [2, 3, 0, 1]]
    boxes[40:60] = boxes[30]
    boxes[60:65] = boxes[0]
    return boxes


def exact(rng):
    """Eighths, so that areas and quotients come out exactly at a threshold."""
    low = rng.integers(0, 6, (COUNT, 2))
    high = low + rng.integers(0, 5, (COUNT, 2))
    return np.concatenate([low, high], 1) / np.float32(8)


KINDS = {
    "random": lambda rng: random_boxes(rng, COUNT),
    "clustered": clustered,
    "nested": nested,
    "degenerate": degenerate,
    "exact": exact,
}


def score_table(rng, ties):
    if ties:
        return rng.choice(np.float32([0, 0.01, 0.2, 0.5, 0.9]), (COUNT, 3))
    return rng.uniform(0, 1, (COUNT, 3)).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("max_per_class", "max_total"))
def detect(boxes, scores, *, score=0.01, iou, max_per_class=60, max_total=90):
    """The detections of one image."""
    found = nms.class_wise_nms(
        boxes[None],
        scores[None],
        score=score,
        iou=iou,
        max_per_class=max_per_class,
        max_total=max_total,
    )
    return jax.tree.map(lambda x: x[0], found)


@functools.partial(jax.jit, static_argnames="max_total")
def keep_of(boxes, valid, iou, max_total=COUNT):
    """Returns which ranked boxes [..., K, 4] of one class are kept."""
    count = boxes.shape[-2]
    ranked = jnp.linspace(1, 0.5, count, dtype=jnp.float32)
    scores = jnp.where(valid, jnp.broadcast_to(ranked, valid.shape), 0)
    found = nms.class_wise_nms(
        boxes.reshape(-1, count, 4),
        scores.reshape(-1, count, 1),
        score=0.0,
        iou=iou,
        max_per_class=count,
        max_total=max_total,
    )
    kept = found.scores[:, :, None] == scores.reshape(-1, 1, count)
    return jnp.any(kept & found.mask[:, :, None], axis=1).reshape(valid.shape)


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "tied"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("iou", THRESHOLDS)
def test_nms_equals_the_greedy_loop(iou, kind, ties):
    for seed in range(2):
        rng = np.random.default_rng(seed)
        boxes, scores = KINDS[kind](rng), score_table(rng, ties)
        expected = greedy_nms(
            boxes, scores, score=0.01, iou=iou, max_per_class=60, max_total=90
        )
        got = detect(boxes, scores, iou=iou)
        count = len(expected)
        np.testing.assert_array_equal(got.mask, np.arange(90) < count)
        np.testing.assert_array_equal(got.scores[:count], [row[0] for row in expected])
        np.testing.assert_array_equal(got.labels[:count], [row[1] for row in expected])
        np.testing.assert_array_equal(got.boxes[:count], [row[2] for row in expected])
        np.testing.assert_array_equal(got.anchors[:count], [row[3] for row in expected])
        np.testing.assert_array_equal(got.anchors[count:], 0)


# Boxes of height 1 on a line, x from..to; IoU of neighbours in the comment.
CHAINS = [
    # A over B over C: A takes B, so B cannot take C.      AB .5, BC .5, AC .2
    (0.45, [(0, 6), (2, 8), (4, 10)], [1, 0, 1]),
    # The same at a threshold that the neighbours just do not pass.
    (0.5, [(0, 6), (2, 8), (4, 10)], [1, 1, 1]),
    (0.15, [(0, 6), (2, 8), (4, 10)], [1, 0, 0]),
    # Five links: every second one falls.
    (0.45, [(0, 6), (2, 8), (4, 10), (6, 12), (8, 14)], [1, 0, 1, 0, 1]),
    # The same from the middle: the best is kept, its neighbours fall, the ends stay.
    (0.45, [(4, 10), (2, 8), (6, 12), (0, 6), (8, 14)], [1, 0, 0, 1, 1]),
    # Identical boxes: only the first.
    (0.7, [(0, 6), (0, 6), (0, 6)], [1, 0, 0]),
    # Nested, quarter of the area: over 0.2, under 0.3.
    (0.2, [(0, 8), (3, 5)], [1, 0]),
    (0.3, [(0, 8), (3, 5)], [1, 1]),
    # No area, no overlap, whatever lies on whatever.
    (0.3, [(2, 2), (2, 2), (0, 4)], [1, 1, 1]),
]


@pytest.mark.parametrize(("iou", "spans", "keep"), CHAINS)
def test_chains_of_overlapping_boxes_by_hand(iou, spans, keep):
    boxes = np.zeros((5, 4), np.float32)
    boxes[: len(spans)] = [[0, low, 1, high] for low, high in spans]
    got = keep_of(boxes, np.arange(5) < len(spans), iou)
    np.testing.assert_array_equal(got[: len(spans)], np.array(keep, bool))
    assert not np.any(got[len(spans) :])


def test_invalid_boxes_suppress_nothing():
    boxes = np.float32([[0, 0, 1, 1]] * 5)
    got = keep_of(boxes, np.array([False, True, True, False, True]), 0.5)
    np.testing.assert_array_equal(got, [False, True, False, False, False])


@pytest.mark.parametrize("iou", THRESHOLDS)
def test_images_of_a_batch_are_independent(iou):
    rng = np.random.default_rng(1)
    boxes = np.stack([KINDS[kind](rng) for kind in KINDS for _ in range(2)])
    boxes = boxes.reshape(5, 2, COUNT, 4)
    valid = rng.uniform(size=(5, 2, COUNT)) < 0.8
    got = keep_of(boxes, valid, iou)
    for index in np.ndindex(5, 2):
        expected = greedy_suppress(boxes[index], valid[index], iou)
        np.testing.assert_array_equal(got[index], expected)


@pytest.mark.parametrize("part", [7, 64, 1024])
def test_the_size_of_parts_does_not_change_the_result(monkeypatch, part):
    """Images whose rankings end, or are full, after different numbers of parts."""
    rng = np.random.default_rng(2)
    boxes = np.stack([KINDS[kind](rng) for kind in KINDS])
    scores = np.stack([score_table(rng, ties=i % 2) for i in range(len(KINDS))])
    scores[1] = np.where(rng.uniform(size=scores[1].shape) < 0.1, scores[1], 0)
    scores[2] = 0  # No detection at all.
    options = dict(score=0.01, iou=0.45, max_per_class=30, max_total=40)
    monkeypatch.setattr(nms, "_PART", part)
    found = jax.jit(functools.partial(nms.class_wise_nms, **options))(boxes, scores)
    for i in range(len(boxes)):
        rows = greedy_nms(boxes[i], scores[i], **options)
        count = len(rows)
        np.testing.assert_array_equal(found.mask[i], np.arange(40) < count)
        for column, name in enumerate(("scores", "labels", "boxes", "anchors")):
            field = getattr(found, name)
            expected = np.zeros_like(field[i])
            if count:
                expected[:count] = [row[column] for row in rows]
            np.testing.assert_array_equal(field[i], expected)


@pytest.mark.parametrize("count", [5, 400, 5000])
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "tied"])
def test_top_k_equals_a_stable_sort(count, ties):
    rng = np.random.default_rng(count)
    values = rng.uniform(0, 1, (3, count)).astype(np.float32)
    if ties:
        values = np.round(values * 5)
        values[0] = -np.inf
    got, index = jax.jit(functools.partial(nms.top_k, k=5))(values)
    order = np.argsort(-values, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(index, order)
    np.testing.assert_array_equal(got, np.take_along_axis(values, order, axis=1))


def test_equal_scores_are_ranked_by_anchor_and_then_by_class():
    boxes = np.float32([[0, 0, 1, 1], [0, 2, 1, 3], [0, 4, 1, 5]])
    scores = np.full((3, 2), 0.5, np.float32)
    got = detect(boxes, scores, score=0.0, iou=0.5, max_per_class=2, max_total=3)
    np.testing.assert_array_equal(got.labels, [0, 1, 0])
    np.testing.assert_array_equal(got.boxes[:, 1], [0, 0, 2])


def test_anchors_are_exact_if_boxes_and_scores_are_equal():
    """A nearest box or score could not distinguish the anchors here."""
    boxes = np.float32([[0, 0, 1, 1]] * 4 + [[0, 2, 1, 3]] * 3)
    scores = np.zeros((7, 2), np.float32)
    scores[[1, 2, 5, 6], 0] = 0.5
    scores[[3, 4], 1] = 0.5
    got = detect(boxes, scores, score=0.0, iou=0.5, max_per_class=9, max_total=9)
    np.testing.assert_array_equal(got.mask, np.arange(9) < 4)
    np.testing.assert_array_equal(got.anchors, [1, 3, 4, 5, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(got.labels[:4], [0, 1, 1, 0])
    assert got.anchors.dtype == jnp.int32


def test_only_scores_above_the_threshold_count():
    boxes = np.float32([[0, 0, 1, 1], [0, 2, 1, 3], [0, 4, 1, 5], [0, 6, 1, 7]])
    scores = np.float32([[0.25], [0.2500001], [np.nan], [0.1]])
    got = detect(boxes, scores, score=0.25, iou=0.5, max_per_class=4, max_total=4)
    np.testing.assert_array_equal(got.mask, [True, False, False, False])
    np.testing.assert_array_equal(got.boxes[0], boxes[1])


def test_an_infinite_score_ranks_first():
    boxes = np.float32([[0, 0, 1, 1], [0, 2, 1, 3], [0, 4, 1, 5]])
    scores = np.float32([[np.inf], [0.5], [np.inf]])
    got = detect(boxes, scores, score=0.0, iou=0.5, max_per_class=3, max_total=3)
    np.testing.assert_array_equal(got.boxes, boxes[[0, 2, 1]])


def test_boxes_that_are_not_finite_are_no_detections():
    boxes = np.float32([[0, 0, 1, 1], [0, 0, np.nan, 1], [0, 0, 1, np.inf]])
    scores = np.float32([[0.5], [0.9], [0.8]])
    # One place in the class: they take none from the others, either.
    got = detect(boxes, scores, score=0.0, iou=0.5, max_per_class=1, max_total=3)
    np.testing.assert_array_equal(got.mask, [True, False, False])
    np.testing.assert_array_equal(got.boxes[0], boxes[0])
    assert np.isfinite(got.boxes).all()


def test_fewer_candidates_than_places_are_padded():
    boxes = np.float32([[0, 0, 1, 1]])
    got = detect(
        boxes, np.float32([[0.9]]), score=0.0, iou=0.5, max_per_class=9, max_total=5
    )
    np.testing.assert_array_equal(got.mask, [True] + [False] * 4)
    np.testing.assert_array_equal(got.boxes, np.pad(boxes, [(0, 4), (0, 0)]))
    np.testing.assert_array_equal(got.scores, np.float32([0.9, 0, 0, 0, 0]))
    assert got.labels.dtype == jnp.int32
