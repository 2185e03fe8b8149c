"""COCO's metrics against published values and values computed by hand."""

import copy
import json
import math
import tracemalloc

import numpy as np
import pytest

from borrow_det.evaluation import average_precision, voc
from tests.evaluation.coco_records import FAR, A, B, detection, truth

# --- published values


@pytest.fixture(scope="module")
def coco_vector(metric_vectors):
    folder = metric_vectors / "coco_val2014_fake100"
    names = (
        "instances_val2014_100",
        "instances_val2014_fakebbox100_results",
        "expected",
    )
    return [json.loads((folder / f"{name}.json").read_text()) for name in names]


def test_published_values_of_the_summary_and_of_classes(coco_vector, capfd):
    ground_truth, detections, expected = coco_vector
    before = copy.deepcopy((ground_truth["annotations"], detections))
    metrics = average_precision.coco_metrics(ground_truth, detections)
    for name, value in expected["coco_summary"].items():
        assert metrics[name] == pytest.approx(value, abs=1e-6), name
    for name, value in expected["published_3_decimals"].items():
        assert round(metrics[name], 3) == value, name
    names = {str(c["id"]): c["name"] for c in ground_truth["categories"]}
    per_class = expected["per_category_AP_pycocotools_2_0_11"]
    assert per_class.keys() == names.keys()
    for category, value in per_class.items():
        result = metrics[f"AP/{names[category]}"]
        if value is None:
            assert math.isnan(result)
        else:
            assert result == pytest.approx(value, abs=1e-6), names[category]
    assert (ground_truth["annotations"], detections) == before
    assert capfd.readouterr() == ("", "")  # The library prints nothing.


def test_published_values_of_area_ranges(coco_vector):
    ground_truth, detections, expected = coco_vector
    ranges = {k: tuple(v) for k, v in expected["area_ranges_px2"].items()}
    metrics = average_precision.coco_metrics(
        ground_truth, detections, area_ranges=ranges
    )
    for name, value in expected["area_range_metrics"].items():
        assert metrics[name] == pytest.approx(value, abs=1e-6), name


# --- ground truth as detections


@pytest.mark.parametrize("name", ["aquarium", "bccd", "traffic_vehicles"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_ground_truth_as_detections_is_perfect(shared, name, split):
    path = shared / "data" / name / "annotations" / f"{split}.json"
    ground_truth = json.loads(path.read_text())
    detections = [
        {key: a[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1.0}
        for a in ground_truth["annotations"]
    ]
    metrics = average_precision.coco_metrics(ground_truth, detections, 1000)
    metrics |= voc.voc_metrics(ground_truth, detections)
    for key in ("AP", "AP50", "AP75", "AR_1000", "AP_11point", "AP_allpoint"):
        assert metrics[key] == pytest.approx(1.0, abs=1e-12), key


# --- values computed by hand


def test_average_precision_computed_by_hand():
    # cat: a true and then a false positive; precision 1 up to recall 1, AP50 1.
    # dog: a false positive first; precision 1/2 at every recall, AP50 0.5.
    ground_truth = truth((1, 1, A, {}), (2, 2, A, {}))
    detections = [
        detection(1, 1, A, 0.9),
        detection(1, 1, FAR, 0.8),
        detection(2, 2, FAR, 0.9),
        detection(2, 2, A, 0.8),
    ]
    metrics = average_precision.coco_metrics(ground_truth, detections)
    assert metrics["AP/cat"] == pytest.approx(1.0)
    assert metrics["AP/dog"] == pytest.approx(0.5)
    assert metrics["AP"] == metrics["AP50"] == pytest.approx(0.75)
    # With one detection per image, the dog is not found.
    assert metrics["AR_1"] == pytest.approx(0.5)
    assert metrics["AR_10"] == metrics["AR_100"] == pytest.approx(1.0)
    # 20 x 20 is small; there are no medium or large objects.
    assert metrics["AP_small"] == pytest.approx(0.75)
    assert metrics["AR_small"] == pytest.approx(1.0)
    for name in ("AP_medium", "AP50_large", "AR_large"):
        assert math.isnan(metrics[name])


def test_average_precision_is_the_mean_over_ten_iou_thresholds():
    # An IoU of 0.8 reaches 0.50 ... 0.80, seven of ten thresholds.
    ground_truth = truth((1, 1, A, {}), names=("cat",))
    metrics = average_precision.coco_metrics(
        ground_truth, [detection(1, 1, [10, 10, 20, 16], 0.9)]
    )
    assert metrics["AP"] == pytest.approx(0.7)
    assert metrics["AP50"] == metrics["AP75"] == pytest.approx(1.0)


def test_size_is_the_area_of_the_annotation_if_present():
    ground_truth = truth((1, 1, [0, 0, 40, 40], {"area": 900.0}), names=("cat",))
    metrics = average_precision.coco_metrics(ground_truth, [])
    assert metrics["AP_small"] == 0
    assert math.isnan(metrics["AP_medium"])
    del ground_truth["annotations"][0]["area"]
    metrics = average_precision.coco_metrics(ground_truth, [])
    assert metrics["AP_medium"] == 0
    assert math.isnan(metrics["AP_small"])


def test_max_detections_may_exceed_100():
    # 150 objects in one image, all found.
    boxes = [[20 * (i % 20), 20 * (i // 20), 10, 10] for i in range(150)]
    ground_truth = truth(*((1, 1, box, {}) for box in boxes), names=("cat",))
    detections = [detection(1, 1, box, 0.9 - i / 1000) for i, box in enumerate(boxes)]
    at_100 = average_precision.coco_metrics(ground_truth, detections)
    assert at_100["AR_100"] == pytest.approx(100 / 150)
    # 67 of the 101 recall levels 0, 0.01 ... 1 are at most 100 / 150.
    assert at_100["AP"] == pytest.approx(67 / 101)
    at_200 = average_precision.coco_metrics(ground_truth, detections, 200)
    assert at_200["AP"] == at_200["AR_200"] == pytest.approx(1.0)
    assert at_200["AR_10"] == pytest.approx(10 / 150)
    at_5 = average_precision.coco_metrics(ground_truth, detections, 5)
    assert at_5["AR_5"] == pytest.approx(5 / 150)
    assert at_5["AR_1"] == pytest.approx(1 / 150)
    assert "AR_10" not in at_5
    with pytest.raises(ValueError, match="max_detections is 0"):
        average_precision.coco_metrics(ground_truth, detections, 0)


def test_crowds_and_difficult_objects_are_ignored():
    cat = (1, 1, A, {})
    on_b = [detection(1, 1, B, 0.95), detection(1, 1, A, 0.9)]
    ordinary = average_precision.coco_metrics(truth(cat, (1, 1, B, {})), on_b[:1])
    assert ordinary["AR_100"] == pytest.approx(0.5)
    for field in ("iscrowd", "difficult"):
        ground_truth = truth(cat, (1, 1, B, {field: 1}))
        # The object is not a miss.
        metrics = average_precision.coco_metrics(ground_truth, on_b[1:])
        assert metrics["AP/cat"] == pytest.approx(1.0), field
        # A detection on it is not a false positive.
        metrics = average_precision.coco_metrics(ground_truth, on_b)
        assert metrics["AP/cat"] == pytest.approx(1.0), field
    # All detections inside a crowd are ignored, but one of a difficult object.
    parts = [
        detection(1, 1, [60, 60, 20, 8], 0.97),
        detection(1, 1, [60, 70, 20, 8], 0.96),
    ]
    for field, expected in (("iscrowd", 1.0), ("difficult", 1 / 3)):
        ground_truth = truth(cat, (1, 1, B, {field: 1}))
        metrics = average_precision.coco_metrics(ground_truth, parts + on_b[1:])
        assert metrics["AP/cat"] == pytest.approx(expected), field


def test_an_annotation_may_have_id_0():
    # COCO's code takes id 0 for "not matched"; `truth` counts ids from 0.
    metrics = average_precision.coco_metrics(
        truth((1, 1, A, {}), names=("cat",)), [detection(1, 1, A, 0.5)]
    )
    assert metrics["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("images", [0, 2])
@pytest.mark.parametrize("names", [(), ("cat", "dog")])
def test_metrics_without_objects_are_nan(images, names):
    ground_truth = truth(images=images, names=names)
    false = [detection(1, 1, A, 0.5)] if images and names else []
    for detections in ([], false):
        metrics = average_precision.coco_metrics(ground_truth, detections)
        metrics |= voc.voc_metrics(ground_truth, detections)
        assert {"AP", "AR_100", "AP_small", "AP_11point"} <= metrics.keys()
        assert all(math.isnan(value) for value in metrics.values())


def test_metrics_without_detections_are_zero():
    ground_truth = truth((1, 1, A, {}))
    metrics = average_precision.coco_metrics(ground_truth, [])
    metrics |= voc.voc_metrics(ground_truth, [])
    for name in ("AP", "AP50", "AR_100", "AP/cat", "AP_11point", "AP_allpoint/cat"):
        assert metrics[name] == 0, name
    assert math.isnan(metrics["AP/dog"])


def test_ids_may_be_strings_and_have_gaps():
    ground_truth = {
        "images": [{"id": "b"}, {"id": "a"}],
        "categories": [{"id": 90, "name": "dog"}, {"id": 7, "name": "cat"}],
        "annotations": [
            {"image_id": "a", "category_id": 7, "bbox": A},
            {"image_id": "b", "category_id": 90, "bbox": A},
        ],
    }
    detections = [detection("a", 7, A, 0.5), detection("a", 90, A, 0.5)]
    metrics = average_precision.coco_metrics(ground_truth, detections)
    metrics |= voc.voc_metrics(ground_truth, detections)
    assert metrics["AP/cat"] == metrics["AP_11point/cat"] == pytest.approx(1.0)
    assert metrics["AP/dog"] == metrics["AP_11point/dog"] == 0


# --- resources


def test_peak_memory_is_that_of_one_class():
    rng = np.random.default_rng(0)
    ground_truth = truth(names=tuple("abcd"))
    boxes = rng.uniform(1, 90, (8000, 4)).tolist()
    peaks = []
    for classes in (1, 4):
        detections = [
            detection(1, 1 + i % classes, b, 0.5) for i, b in enumerate(boxes)
        ]
        tracemalloc.start()
        average_precision.coco_metrics(ground_truth, detections)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 0.6 * peaks[0]


def test_areas_in_resized_images_change_area_ranges_and_no_overlaps():
    """Resizes an image of 1000 x 500 to 500 x 100, which divides areas by ten."""
    truth = {
        "images": [{"id": 1, "width": 1000, "height": 500}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [0, 0, 128, 80]},
            {"image_id": 1, "category_id": 1, "bbox": [200, 0, 128, 81], "area": 10250},
            {"image_id": 1, "category_id": 1, "bbox": [400, 0, 50, 50], "iscrowd": 1},
        ],
        "categories": [{"id": 1, "name": "a"}],
    }
    found = [
        # Small after resizing, and a false positive among small objects only.
        {"image_id": 1, "category_id": 1, "bbox": [0, 200, 100, 100], "score": 0.9},
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 128, 80], "score": 0.8},
        {"image_id": 1, "category_id": 1, "bbox": [200, 0, 128, 81], "score": 0.7},
    ]
    sized, boxes = average_precision.with_areas(truth, found, (100, 500))
    assert [a["area"] for a in sized["annotations"]] == [1024, 1025, 250]
    assert sized["annotations"][2]["iscrowd"] == 1
    assert [d["box_area"] for d in boxes] == [1000, 1024, 1036.8]
    assert "area" not in truth["annotations"][0]
    own = average_precision.coco_metrics(truth, found)
    of_input = average_precision.coco_metrics(sized, boxes)
    assert math.isnan(own["AP_small"])
    assert of_input["AP_small"] == pytest.approx(0.5)
    assert of_input["AP_medium"] == pytest.approx(1.0)
    for name in ("AP", "AP50", "AP75", "AR_1", "AR_10", "AR_100"):
        assert of_input[name] == own[name]


def test_an_area_at_a_limit_stays_there_in_other_pixels():
    area = average_precision.area_in(5625.0, (600, 600), (256, 256))
    assert area == 1024
    assert average_precision.is_small(area)
