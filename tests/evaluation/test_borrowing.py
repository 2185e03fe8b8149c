"""Attention metrics against a loop; AP with and without a lender against counts."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.evaluation import average_precision, borrowing

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

    def inside(point, box):
        return all(box[:2] <= point) and all(point <= box[2:])

    for g, box in enumerate(objects.boxes):
        if not (objects.small[g] and objects.valid[g]):
            continue
        rows = [r for r, point in enumerate(positions.queries) if inside(point, box)]
        if not rows:
            middle = (box[:2] + box[2:]) / 2
            distances = np.linalg.norm(positions.queries - middle, axis=1)
            rows = [int(np.argmin(distances))]
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


# --- average precision with and without a lender

SMALL, LARGE = [0, 0, 10, 10], [100, 100, 40, 40]


def truth(*objects):
    """Makes a COCO dictionary of objects (image, category, bbox, extra fields)."""
    return {
        "images": [{"id": i} for i in (1, 2, 3)],
        "categories": [{"id": i, "name": str(i)} for i in (1, 2)],
        "annotations": [
            {"image_id": image, "category_id": category, "bbox": bbox, **extra}
            for image, category, bbox, extra in objects
        ],
    }


def perfect(ground_truth, images):
    keys = ("image_id", "category_id", "bbox")
    return [
        {key: a[key] for key in keys} | {"score": 0.9}
        for a in ground_truth["annotations"]
        if a["image_id"] in images
    ]


def lender_metrics(ground_truth, detections):
    metrics = average_precision.coco_metrics(ground_truth, detections)
    return metrics | borrowing.lender_metrics(ground_truth, detections, metrics, 2.0)


def test_small_objects_with_and_without_a_lender_are_scored_separately():
    ground_truth = truth(
        *((1, 1, SMALL, {}), (1, 1, LARGE, {}), (1, 1, [50, 0, 12, 12], {})),
        *((2, 1, SMALL, {}), (3, 2, SMALL, {}), (3, 1, LARGE, {})),
    )
    found = lender_metrics(ground_truth, perfect(ground_truth, {1}))
    assert found["objects_small_with_lender"] == 2
    assert found["objects_small_without_lender"] == 2
    assert found["AP_small_with_lender"] == pytest.approx(1.0)
    assert found["AP50_small_with_lender"] == pytest.approx(1.0)
    assert found["AP_small_without_lender"] == 0
    assert found["AP50_small_without_lender"] == 0
    assert 0 < found["AP_small"] < 1
    # Detections of one group are not false positives of the other.
    found = lender_metrics(ground_truth, perfect(ground_truth, {1, 2, 3}))
    assert found["AP_small_with_lender"] == pytest.approx(1.0)
    assert found["AP_small_without_lender"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("other", "has_lender"),
    [
        ((1, 1, [50, 50, 20, 20], {}), True),  # Exactly twice the side.
        ((1, 1, [50, 50, 20, 19.9], {}), False),
        ((1, 1, [50, 50, 5, 80], {"area": 1.0}), True),  # Sides come from the box.
        ((1, 2, LARGE, {}), False),
        ((2, 1, LARGE, {}), False),
        ((1, 1, LARGE, {"iscrowd": 1}), False),
        ((1, 1, LARGE, {"difficult": 1}), False),
    ],
)
def test_a_lender_has_the_same_class_and_image_and_is_large_enough(other, has_lender):
    annotations = truth((1, 1, SMALL, {}), other)["annotations"]
    small, lenders = borrowing.small_objects(annotations, 2.0)
    assert small[0]
    assert lenders[0] == has_lender


def test_an_object_without_area_has_no_lender():
    annotations = truth((1, 1, [0, 0, 0, 10], {}), (1, 1, LARGE, {}))["annotations"]
    small, lenders = borrowing.small_objects(annotations, 2.0)
    assert small.tolist() == [True, False]
    assert not lenders.any()


def test_ignored_and_larger_objects_are_not_small():
    annotations = truth(
        *((1, 1, SMALL, {"iscrowd": 1}), (1, 1, SMALL, {"difficult": 1})),
        *((1, 1, [0, 0, 32, 32], {}), (1, 1, [0, 0, 32, 32.1], {})),
        (1, 1, [0, 0, 40, 40], {"area": 900.0}),
    )["annotations"]
    small, _ = borrowing.small_objects(annotations, 2.0)
    assert small.tolist() == [False, False, True, False, True]


def random_scene(with_large):
    """Makes objects of both classes, and detections near them."""
    rng = np.random.default_rng(0)
    objects, detections = [], []
    for image in (1, 2, 3):
        for category in (1, 2):
            boxes = [
                [*rng.uniform(0, 300, 2), *rng.uniform(12, 20, 2)] for _ in "12345"
            ]
            large = [[*rng.uniform(0, 100, 2), 70, 70]] if with_large[image - 1] else []
            objects += [(image, category, b, {}) for b in boxes + large]
            for box in boxes + large + boxes[:2]:
                moved = (np.array(box) + rng.normal(0, 2, 4)).tolist()
                detections.append(
                    {
                        "image_id": image,
                        "category_id": category,
                        "bbox": moved,
                        "score": float(rng.uniform()),
                    }
                )
    return truth(*objects), detections


def test_with_lenders_for_all_the_metrics_equal_those_of_all():
    ground_truth, detections = random_scene((True, True, True))
    found = lender_metrics(ground_truth, detections)
    assert 0 < found["AP_small"] < found["AP50_small"] < 1
    assert found["AP_small_with_lender"] == found["AP_small"]
    assert found["AP50_small_with_lender"] == found["AP50_small"]
    assert math.isnan(found["AP_small_without_lender"])
    # A subset of all objects has the metrics of all.
    small, _ = borrowing.small_objects(ground_truth["annotations"], 2.0)
    again = average_precision.subset_metrics(
        ground_truth, detections, small.tolist(), average_precision.AREA_RANGES["small"]
    )
    expected = [found[f"{name}_small"] for name in ("AP", "AP50", "AR")]
    assert again == pytest.approx(expected, abs=1e-12)


def test_the_other_group_is_ignored_like_difficult_objects():
    ground_truth, detections = random_scene((True, False, True))
    found = lender_metrics(ground_truth, detections)
    assert found["objects_small_without_lender"] == 10
    _, has_lender = borrowing.small_objects(ground_truth["annotations"], 2.0)
    for name, wanted in (("with_lender", True), ("without_lender", False)):
        # Difficult objects are ignored by the same rule.
        annotations = [
            a | {"difficult": int(s != wanted)}
            for a, s in zip(ground_truth["annotations"], has_lender, strict=True)
        ]
        expected = average_precision.coco_metrics(
            ground_truth | {"annotations": annotations}, detections
        )
        assert found[f"AP_small_{name}"] == pytest.approx(expected["AP_small"])
        assert found[f"AP50_small_{name}"] == pytest.approx(expected["AP50_small"])
        assert found[f"AR_small_{name}"] == pytest.approx(expected["AR_small"])


def test_rows_become_shares_and_a_row_of_zeros_stays_zero():
    P = jnp.array([[0.0, 0.0], [-3.0, 1.0]], jnp.float32)
    assert borrowing.as_shares(P).tolist() == [[0.0, 0.0], [0.75, 0.25]]


def test_metrics_without_small_objects_are_nan():
    found = lender_metrics(truth((1, 1, LARGE, {})), [])
    assert found["objects_small_with_lender"] == 0
    assert math.isnan(found["AP_small_with_lender"])
    assert math.isnan(found["AP50_small_without_lender"])
