"""AP of small objects with and without a lender, against counts."""

import math

import numpy as np
import pytest

from borrow_det.evaluation import average_precision, lenders

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
    return metrics | lenders.lender_metrics(ground_truth, detections, metrics, 2.0)


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
    small, has_one = lenders.small_objects(annotations, 2.0)
    assert small[0]
    assert has_one[0] == has_lender


def test_an_object_without_area_has_no_lender():
    annotations = truth((1, 1, [0, 0, 0, 10], {}), (1, 1, LARGE, {}))["annotations"]
    small, has_one = lenders.small_objects(annotations, 2.0)
    assert small.tolist() == [True, False]
    assert not has_one.any()


def test_ignored_and_larger_objects_are_not_small():
    annotations = truth(
        *((1, 1, SMALL, {"iscrowd": 1}), (1, 1, SMALL, {"difficult": 1})),
        *((1, 1, [0, 0, 32, 32], {}), (1, 1, [0, 0, 32, 32.1], {})),
        (1, 1, [0, 0, 40, 40], {"area": 900.0}),
    )["annotations"]
    small, _ = lenders.small_objects(annotations, 2.0)
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
    small, _ = lenders.small_objects(ground_truth["annotations"], 2.0)
    again = average_precision.subset_metrics(
        ground_truth, detections, small.tolist(), average_precision.AREA_RANGES["small"]
    )
    expected = [found[f"{name}_small"] for name in ("AP", "AP50", "AR")]
    assert again == pytest.approx(expected, abs=1e-12)


def test_the_other_group_is_ignored_like_difficult_objects():
    ground_truth, detections = random_scene((True, False, True))
    found = lender_metrics(ground_truth, detections)
    assert found["objects_small_without_lender"] == 10
    _, has_lender = lenders.small_objects(ground_truth["annotations"], 2.0)
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


def test_metrics_without_small_objects_are_nan():
    found = lender_metrics(truth((1, 1, LARGE, {})), [])
    assert found["objects_small_with_lender"] == 0
    assert math.isnan(found["AP_small_with_lender"])
    assert math.isnan(found["AP50_small_without_lender"])


# --- groups of images


def test_lenders_of_the_group_equal_those_of_a_loop():
    rng = np.random.default_rng(0)
    images = [
        {"id": i, "width": 100 * (1 + i % 2), "height": 100} for i in (7, 8, 9, 10, 11)
    ]
    keys = ["a", "b", "a", "a", "c"]
    annotations = [
        {
            "image_id": int(rng.integers(7, 12)),
            "category_id": int(rng.integers(1, 3)),
            "bbox": [0, 0, *rng.uniform(4, 40, 2).tolist()],
            "iscrowd": int(rng.random() < 0.1),
        }
        for _ in range(40)
    ]
    annotations[0]["bbox"] = [0, 0, 0, 9]  # No area.
    found = lenders.has_lender(annotations, images, keys, 2.0)
    group = dict(zip((7, 8, 9, 10, 11), keys, strict=True))
    area = {image["id"]: image["width"] * image["height"] for image in images}

    def side(a):
        return math.sqrt(a["bbox"][2] * a["bbox"][3] / area[a["image_id"]])

    for a, has_one in zip(annotations, found, strict=True):
        expected = side(a) > 0 and any(
            group[a["image_id"]] == group[b["image_id"]]
            and a["category_id"] == b["category_id"]
            and not a["iscrowd"]
            and not b["iscrowd"]
            and side(b) >= 2 * side(a)
            for b in annotations
        )
        assert has_one == expected
    assert 5 < found.sum() < 35


def test_small_objects_with_and_without_a_lender_in_the_group_are_scored_apart():
    ground_truth = truth(
        *((1, 1, SMALL, {}), (2, 1, LARGE, {}), (3, 1, SMALL, {}), (3, 2, SMALL, {}))
    )
    for image in ground_truth["images"]:
        image.update(width=200, height=200)
    detections = perfect(ground_truth, {1})
    metrics = average_precision.coco_metrics(ground_truth, detections)
    found = lenders.lender_metrics(
        ground_truth, detections, metrics, 2.0, keys=["a", "a", "b"]
    )
    assert found["objects_small_with_lender_in_group"] == 1
    assert found["objects_small_without_lender_in_group"] == 2
    assert found["AP_small_with_lender_in_group"] == pytest.approx(1.0)
    assert found["AR_small_with_lender_in_group"] == pytest.approx(1.0)
    assert found["AP_small_without_lender_in_group"] == 0
    # In its image alone, no small object has a lender.
    figures = lenders.lender_metrics(ground_truth, detections, metrics, 2.0)
    assert figures["objects_small_with_lender"] == 0
