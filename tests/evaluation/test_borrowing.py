"""What small objects attend to, against a loop; their AP in two, by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.evaluation import average_precision, borrowing

LEVELS = 3


def grid(side):
    """Centres [side * side, 2] of a grid on the unit square."""
    line = (np.arange(side, dtype=np.float32) + 0.5) / side
    return np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)


@pytest.fixture(scope="module")
def positions():
    """8 x 8 descriptors against 4 x 4 of level 2 and 2 x 2 of level 3."""
    levels = np.repeat([1, 2], [16, 4])
    return borrowing.Positions(
        grid(8), np.concatenate([grid(4), grid(2)]), levels[:, None] == np.arange(3)
    )


@pytest.fixture
def objects():
    """Two large ones of classes 0 and 1, small ones, and what must not count."""
    boxes = [
        [0.0, 0.0, 0.5, 0.5],  # Large, of class 0 ...
        [0.5, 0.5, 1.0, 1.0],  # ... of class 1 ...
        [0.0, 0.25, 0.5, 0.75],  # ... and a crowd of class 0.
        [0.6, 0.1, 0.8, 0.3],  # Small, of class 0.
        [0.7, 0.3, 0.75, 0.35],  # Of class 1, and holds no centre.
        [0.8, 0.2, 0.9, 0.3],  # Of class 2, which is nowhere else.
        [0.1, 0.8, 0.2, 0.9],  # Padding.
    ]
    return borrowing.Objects(
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
    """The sums by the words of the module's docstring, one object at a time."""
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
def test_sums_are_those_of_a_loop(objects, positions, negative):
    # Where it covers the other large one, the source's class counts.
    boxes = objects.boxes.copy()
    boxes[1, :2] = 0.3
    objects = objects._replace(boxes=boxes)
    P = random_scores()
    if negative:  # As dot_product's.
        P = np.asarray(jax.random.normal(jax.random.key(1), P.shape))
    found = attention_sums(P, objects, positions)
    same, other, each, dependence = expected_sums(P, objects, positions)
    # The three small ones are there, two have a source and another class beside it.
    assert (same[0], other[0], each[0]) == (2, 2, 3)
    np.testing.assert_allclose(found.same, same, rtol=1e-5)
    np.testing.assert_allclose(found.other, other, rtol=1e-5)
    small = [found.objects, found.entropy, *found.levels]
    np.testing.assert_allclose(small, each, rtol=1e-5)
    np.testing.assert_allclose(found.query_dependence, dependence, rtol=1e-5)


def figures(P, objects, positions):
    sums = attention_sums(P, objects, positions)
    return borrowing.attention_metrics([{0: sums}, {0: sums}], {0: (1, 2)})


def test_uniform_attention_knows_nothing(objects, positions):
    found = figures(np.full((64, 20), 1 / 20, np.float32), objects, positions)
    for prefix in ("borrow", "borrow/level1"):
        assert found[f"{prefix}/lift_same"] == pytest.approx(1, rel=1e-5)
        assert found[f"{prefix}/lift_other"] == pytest.approx(1, rel=1e-5)
        assert found[f"{prefix}/entropy"] == pytest.approx(1, rel=1e-5)
        assert found[f"{prefix}/query_dependence"] == pytest.approx(0, abs=1e-10)
        # 4 of 16 and 1 of 4 positions lie in a quarter of the image.
        assert found[f"{prefix}/precision_same"] == pytest.approx(0.25)
        # And 2 more in the first small object, for the second, which is tiny.
        assert found[f"{prefix}/positions_other"] == pytest.approx((5 + 7) / 2 / 20)
        assert found[f"{prefix}/share_level2"] == pytest.approx(0.8)
        assert found[f"{prefix}/share_level3"] == pytest.approx(0.2)
        assert found[f"{prefix}/objects"] == 4


def test_attention_on_the_right_box_is_precise(objects, positions):
    P = np.zeros((64, 20), np.float32)
    P[:, 0] = 1  # In the large object of class 0, top left.
    objects = objects._replace(small=np.arange(7) == 3)
    found = figures(P, objects, positions)
    assert found["borrow/precision_same"] == pytest.approx(1)
    assert found["borrow/lift_same"] == pytest.approx(4)  # 5 of 20 positions.
    assert found["borrow/precision_other"] == found["borrow/lift_other"] == 0
    assert found["borrow/entropy"] == pytest.approx(0, abs=1e-6)
    assert found["borrow/query_dependence"] == 0
    assert found["borrow/share_level2"] == pytest.approx(1)


def test_rows_that_differ_depend_on_their_query(objects, positions):
    # Each of 20 positions has the attention of as many descriptors, of one each.
    P = np.eye(20, dtype=np.float32)[np.arange(60) % 20]
    places = positions._replace(queries=positions.queries[:60])
    found = figures(P, objects, places)
    # sum_t (1/20)(19/20) of a mean square of 1.
    assert found["borrow/query_dependence"] == pytest.approx(19 / 20)


def test_the_shallowest_level_stands_for_all(objects, positions):
    first = attention_sums(random_scores(0), objects, positions)
    uniform = np.full((64, 20), 1 / 20, np.float32)
    none = objects._replace(small=np.zeros(7, bool))
    second = attention_sums(uniform, none, positions)
    sources = {0: (1, 2), 1: (2,)}
    found = borrowing.attention_metrics([{1: second, 0: first}], sources)
    assert found["borrow/level2/objects"] == 0
    assert math.isnan(found["borrow/level2/lift_same"])
    assert math.isnan(found["borrow/level2/share_level3"])
    assert "borrow/level2/share_level2" not in found
    heads = [name for name in found if not name.startswith("borrow/level")]
    assert "borrow/lift_same" in heads
    for name in heads:
        own = found[name.replace("borrow/", "borrow/level1/")]
        assert found[name] == own
    assert found["borrow/query_dependence"] > 0.1
    assert found["borrow/level2/query_dependence"] < 1e-12


def test_a_detector_that_borrows_nothing_has_no_attention():
    assert borrowing.attention_metrics([{}, {}], {}) == {}


def test_one_source_position_is_no_spread(objects):
    places = borrowing.Positions(
        grid(8), np.full((1, 2), 0.25, np.float32), np.eye(LEVELS, dtype=bool)[2:]
    )
    found = attention_sums(jnp.ones((64, 1)), objects, places)
    assert found.entropy == 0


# --- Average precision in two.

SMALL, LARGE = [0, 0, 10, 10], [100, 100, 40, 40]


def truth(*objects):
    """Objects are (image, category, bbox, extra fields)."""
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


def split_metrics(ground_truth, detections):
    metrics = average_precision.coco_metrics(ground_truth, detections)
    return metrics | borrowing.split_metrics(ground_truth, detections, metrics, 2.0)


def test_small_objects_are_scored_by_whether_they_have_a_source():
    ground_truth = truth(
        *((1, 1, SMALL, {}), (1, 1, LARGE, {}), (1, 1, [50, 0, 12, 12], {})),
        *((2, 1, SMALL, {}), (3, 2, SMALL, {}), (3, 1, LARGE, {})),
    )
    found = split_metrics(ground_truth, perfect(ground_truth, {1}))
    assert found["objects_small_with_source"] == 2
    assert found["objects_small_without_source"] == 2
    assert found["AP_small_with_source"] == pytest.approx(1.0)
    assert found["AP50_small_with_source"] == pytest.approx(1.0)
    assert found["AP_small_without_source"] == 0
    assert found["AP50_small_without_source"] == 0
    assert 0 < found["AP_small"] < 1
    # One group's detections are no false positives of the other.
    found = split_metrics(ground_truth, perfect(ground_truth, {1, 2, 3}))
    assert found["AP_small_with_source"] == pytest.approx(1.0)
    assert found["AP_small_without_source"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("other", "has_source"),
    [
        ((1, 1, [50, 50, 20, 20], {}), True),  # Exactly twice the side.
        ((1, 1, [50, 50, 20, 19.9], {}), False),
        ((1, 1, [50, 50, 5, 80], {"area": 1.0}), True),  # By the box's side.
        ((1, 2, LARGE, {}), False),
        ((2, 1, LARGE, {}), False),
        ((1, 1, LARGE, {"iscrowd": 1}), False),
        ((1, 1, LARGE, {"difficult": 1}), False),
    ],
)
def test_a_source_is_of_the_class_and_image_and_large_enough(other, has_source):
    annotations = truth((1, 1, SMALL, {}), other)["annotations"]
    small, sources = borrowing.small_objects(annotations, 2.0)
    assert small[0]
    assert sources[0] == has_source


def test_an_object_of_no_area_has_no_source():
    annotations = truth((1, 1, [0, 0, 0, 10], {}), (1, 1, LARGE, {}))["annotations"]
    small, sources = borrowing.small_objects(annotations, 2.0)
    assert small.tolist() == [True, False]
    assert not sources.any()


def test_ignored_and_larger_objects_are_not_small():
    annotations = truth(
        *((1, 1, SMALL, {"iscrowd": 1}), (1, 1, SMALL, {"difficult": 1})),
        *((1, 1, [0, 0, 32, 32], {}), (1, 1, [0, 0, 32, 32.1], {})),
        (1, 1, [0, 0, 40, 40], {"area": 900.0}),
    )["annotations"]
    small, _ = borrowing.small_objects(annotations, 2.0)
    assert small.tolist() == [False, False, True, False, True]


def random_scene(with_large):
    """Objects of both classes and detections around and beside them."""
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


def test_where_all_have_a_source_their_figures_are_those_of_all():
    ground_truth, detections = random_scene((True, True, True))
    found = split_metrics(ground_truth, detections)
    assert 0 < found["AP_small"] < found["AP50_small"] < 1
    assert found["AP_small_with_source"] == found["AP_small"]
    assert found["AP50_small_with_source"] == found["AP50_small"]
    assert math.isnan(found["AP_small_without_source"])
    # And the subset that is all is scored as all.
    small, _ = borrowing.small_objects(ground_truth["annotations"], 2.0)
    again = average_precision.subset_metrics(
        ground_truth, detections, small.tolist(), average_precision.AREA_RANGES["small"]
    )
    expected = [found[f"{name}_small"] for name in ("AP", "AP50", "AR")]
    assert again == pytest.approx(expected, abs=1e-12)


def test_the_others_are_ignored_as_crowded_places_are():
    ground_truth, detections = random_scene((True, False, True))
    found = split_metrics(ground_truth, detections)
    assert found["objects_small_without_source"] == 10
    _, sources = borrowing.small_objects(ground_truth["annotations"], 2.0)
    for name, wanted in (("with_source", True), ("without_source", False)):
        # COCO leaves difficult objects out by the same rule.
        annotations = [
            a | {"difficult": int(s != wanted)}
            for a, s in zip(ground_truth["annotations"], sources, strict=True)
        ]
        expected = average_precision.coco_metrics(
            ground_truth | {"annotations": annotations}, detections
        )
        assert found[f"AP_small_{name}"] == pytest.approx(expected["AP_small"])
        assert found[f"AP50_small_{name}"] == pytest.approx(expected["AP50_small"])
        assert found[f"AR_small_{name}"] == pytest.approx(expected["AR_small"])


def test_rows_become_shares_and_a_row_of_zeros_has_none():
    P = jnp.array([[0.0, 0.0], [-3.0, 1.0]], jnp.float32)
    assert borrowing.as_shares(P).tolist() == [[0.0, 0.0], [0.75, 0.25]]


def test_no_small_objects_is_nan():
    found = split_metrics(truth((1, 1, LARGE, {})), [])
    assert found["objects_small_with_source"] == 0
    assert math.isnan(found["AP_small_with_source"])
    assert math.isnan(found["AP50_small_without_source"])
