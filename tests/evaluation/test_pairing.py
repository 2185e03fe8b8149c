"""Pairs of detections and objects, against COCO's metrics and pairs made by hand."""

import json
import math

import numpy as np
import pytest

from borrow_det.evaluation import average_precision
from borrow_det.evaluation.pairing import (
    counted_objects,
    interpolated_ap,
    overlaps,
    pair,
)
from tests.evaluation.coco_records import FAR, A, B, detection, truth
from tests.evaluation.random_records import random_records


def ap50(ground_truth, detections, pairs, counts, category):
    """Computes a class's AP from pairs."""
    order = [
        d
        for d in pairs.order
        if detections[d]["category_id"] == category and not pairs.ignored[d]
    ]
    objects = [
        count and annotation["category_id"] == category
        for annotation, count in zip(ground_truth["annotations"], counts, strict=True)
    ]
    return interpolated_ap(pairs.hit[order], sum(objects))


def agree(ground_truth, detections, limit=100):
    """Compares AP at IoU 0.5 with COCO's by class, and by area range over classes."""
    metrics = average_precision.coco_metrics(ground_truth, detections, limit)
    ranges = {"all": average_precision.ALL_AREAS, **average_precision.AREA_RANGES}
    for name, area_range in ranges.items():
        pairs = pair(ground_truth, detections, 0.5, limit, area_range)
        counts = counted_objects(ground_truth["annotations"], area_range)
        by_class = {
            c["name"]: ap50(ground_truth, detections, pairs, counts, c["id"])
            for c in ground_truth["categories"]
        }
        defined = [value for value in by_class.values() if not math.isnan(value)]
        mean = np.mean(defined) if defined else math.nan
        expected = metrics["AP50" if name == "all" else f"AP50_{name}"]
        assert mean == pytest.approx(expected, abs=1e-12, nan_ok=True), name
        if name == "all":
            for category, value in by_class.items():
                expected = metrics[f"AP50/{category}"]
                assert value == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_of_the_pairs_equals_that_of_coco(seed):
    ground_truth, detections = random_records(seed)
    agree(ground_truth, detections, limit=(1, 3, 100)[seed % 3])


def test_average_precision_of_areas_in_other_pixels_equals_that_of_coco():
    records = random_records(0)
    agree(*average_precision.with_areas(*records, (200, 300)))


def test_average_precision_of_the_published_vector(metric_vectors):
    folder = metric_vectors / "coco_val2014_fake100"
    read = [
        json.loads((folder / f"{name}.json").read_text())
        for name in (
            "instances_val2014_100",
            "instances_val2014_fakebbox100_results",
        )
    ]
    agree(*read)


def test_each_detection_takes_the_free_object_of_highest_iou():
    shifted = [12, 10, 20, 20]  # IoU 18/22 with A.
    ground_truth = truth((1, 1, shifted, {}), (1, 1, A, {}), (1, 2, A, {}))
    found = [
        detection(1, 1, A, 0.7),  # A is taken: takes the shifted one.
        detection(1, 1, A, 0.9),
        detection(1, 1, A, 0.6),  # Nothing is left.
        detection(1, 2, FAR, 0.8),
        detection(2, 2, A, 0.5),  # Another image.
        detection(1, 3, A, 1.0),  # Not a class of the truth.
    ]
    pairs = pair(ground_truth, found)
    assert pairs.object.tolist() == [0, 1, -1, -1, -1, -1]
    assert pairs.detection.tolist() == [0, 1, -1]
    assert pairs.order.tolist() == [1, 3, 0, 2, 4]
    assert pairs.counted.tolist() == [True] * 5 + [False]
    assert pairs.iou[:3] == pytest.approx([18 / 22, 1, 0])
    assert not pairs.ignored.any()


def test_a_crowd_is_taken_many_times_and_a_difficult_object_once():
    parts = [
        detection(1, 1, [60, 60, 20, 12], 0.7),
        detection(1, 1, [60, 60, 20, 16], 0.9),
    ]
    crowd = pair(truth((1, 1, B, {"iscrowd": 1})), parts)
    assert crowd.object.tolist() == [0, 0]
    assert crowd.ignored.tolist() == [True, True]
    assert crowd.detection.tolist() == [1]
    assert crowd.iou.tolist() == [1, 1]
    difficult = pair(truth((1, 1, B, {"difficult": 1})), parts)
    assert difficult.object.tolist() == [-1, 0]
    assert difficult.ignored.tolist() == [False, True]
    assert not crowd.hit.any()
    assert not difficult.hit.any()


def test_objects_that_count_are_taken_before_ignored_ones():
    near = [10, 10, 20, 12]  # IoU 0.6 with A.
    ground_truth = truth((1, 1, A, {"iscrowd": 1}), (1, 1, near, {}))
    pairs = pair(ground_truth, [detection(1, 1, A, 0.9)])
    assert pairs.object.tolist() == [1]
    assert pairs.hit.tolist() == [True]


def test_an_iou_at_the_threshold_is_a_pair():
    half = [10, 10, 20, 10]
    assert overlaps([{"bbox": A}], [{"bbox": half}]).tolist() == [[0.5]]
    assert pair(truth((1, 1, half, {})), [detection(1, 1, A, 1)]).hit.tolist() == [True]
    pairs = pair(truth((1, 1, half, {})), [detection(1, 1, A, 1)], iou=0.51)
    assert pairs.object.tolist() == [-1]


def test_detections_beyond_the_limit_take_nothing():
    found = [detection(1, 1, FAR, 0.9), detection(1, 1, A, 0.8)]
    pairs = pair(truth((1, 1, A, {})), found, max_detections=1)
    assert pairs.counted.tolist() == [True, False]
    assert pairs.order.tolist() == [0]
    assert pairs.detection.tolist() == [-1]


def test_equal_scores_are_in_the_order_of_images_and_records():
    found = [detection(image, 1, FAR, 0.5) for image in (2, 1, 2, 1)]
    assert pair(truth(), found).order.tolist() == [1, 3, 0, 2]


def test_no_records():
    pairs = pair(truth(), [])
    assert [len(values) for values in pairs] == [0] * 6
    pairs = pair(truth(), [detection(1, 1, A, 0.5)])
    assert pairs.object.tolist() == [-1]
    assert not pairs.ignored.any()
