"""COCO and VOC metrics against published figures, and cases counted by hand."""

import copy
import json
import math
import tracemalloc

import numpy as np
import pytest

from borrow_det.evaluation import average_precision


def truth(*annotations, names=("cat", "dog"), images=2):
    """Annotations are (image, category, bbox, extra fields)."""
    return {
        "images": [{"id": i} for i in range(1, images + 1)],
        "categories": [{"id": i, "name": n} for i, n in enumerate(names, start=1)],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "bbox": box, **extra}
            for i, (image, category, box, extra) in enumerate(annotations)
        ],
    }


def hit(image, category, box, score):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


A, B, FAR = [10, 10, 20, 20], [60, 60, 20, 20], [200, 200, 20, 20]


# --- published figures


@pytest.fixture(scope="module")
def coco_vector(metric_vectors):
    folder = metric_vectors / "coco_val2014_fake100"
    names = (
        "instances_val2014_100",
        "instances_val2014_fakebbox100_results",
        "expected",
    )
    return [json.loads((folder / f"{name}.json").read_text()) for name in names]


def test_coco_summary_and_classes_are_the_published_ones(coco_vector, capfd):
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


def test_coco_area_ranges_are_the_published_ones(coco_vector):
    ground_truth, detections, expected = coco_vector
    ranges = {k: tuple(v) for k, v in expected["area_ranges_px2"].items()}
    metrics = average_precision.coco_metrics(
        ground_truth, detections, area_ranges=ranges
    )
    for name, value in expected["area_range_metrics"].items():
        assert metrics[name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize("iou", [0.1, 0.3, 0.5, 0.75])
def test_voc_is_the_published_one(metric_vectors, iou):
    folder = metric_vectors / "voc_padilla_7images"
    expected = json.loads((folder / "expected.json").read_text())

    def records(part):
        for path in sorted((folder / part).glob("*.txt")):
            for line in path.read_text().splitlines():
                _, *numbers = line.split()
                *score, x, y, width, height = map(float, numbers)
                record = {
                    "image_id": int(path.stem),
                    "category_id": 1,
                    "bbox": [x, y, width, height],
                }
                yield record | ({"score": score[0]} if score else {})

    ground_truth = truth(names=("object",), images=7)
    ground_truth["annotations"] = list(records("gts"))
    detections = list(records("dets"))
    assert (len(ground_truth["annotations"]), len(detections)) == (15, 24)
    metrics = average_precision.voc_metrics(ground_truth, detections, iou)
    assert metrics["AP_11point"] == pytest.approx(
        expected["AP_11point"][str(iou)], abs=1e-6
    )
    assert metrics["AP_allpoint"] == pytest.approx(
        expected["AP_all_points"][str(iou)], abs=1e-6
    )
    # The source's README gives these two for boxes without the last pixel.
    exclusive = average_precision.voc_metrics(
        ground_truth, detections, iou, inclusive_pixels=False
    )
    without = {0.1: (0.3024538867, 0.2801328502), 0.3: (0.2683982684, 0.2253968254)}
    if iou in without:
        result = exclusive["AP_11point"], exclusive["AP_allpoint"]
        assert result == pytest.approx(without[iou], abs=1e-6)


# --- ground truth fed back


@pytest.mark.parametrize("name", ["aquarium", "bccd", "traffic_vehicles"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_ground_truth_fed_back_is_perfect(shared, name, split):
    path = shared / "data" / name / "annotations" / f"{split}.json"
    ground_truth = json.loads(path.read_text())
    detections = [
        {key: a[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1.0}
        for a in ground_truth["annotations"]
    ]
    metrics = average_precision.coco_metrics(ground_truth, detections, 1000)
    metrics |= average_precision.voc_metrics(ground_truth, detections)
    for key in ("AP", "AP50", "AP75", "AR_1000", "AP_11point", "AP_allpoint"):
        assert metrics[key] == pytest.approx(1.0, abs=1e-12), key


# --- COCO by hand


def test_coco_by_hand():
    # cat: found, then a false positive; precision 1 up to recall 1: AP50 1.
    # dog: a false positive first; precision 1/2 at every recall: AP50 0.5.
    ground_truth = truth((1, 1, A, {}), (2, 2, A, {}))
    detections = [
        hit(1, 1, A, 0.9),
        hit(1, 1, FAR, 0.8),
        hit(2, 2, FAR, 0.9),
        hit(2, 2, A, 0.8),
    ]
    metrics = average_precision.coco_metrics(ground_truth, detections)
    assert metrics["AP/cat"] == pytest.approx(1.0)
    assert metrics["AP/dog"] == pytest.approx(0.5)
    assert metrics["AP"] == metrics["AP50"] == pytest.approx(0.75)
    # One detection an image: the dog is not reached.
    assert metrics["AR_1"] == pytest.approx(0.5)
    assert metrics["AR_10"] == metrics["AR_100"] == pytest.approx(1.0)
    # 20 x 20 is small; there is nothing medium or large to find.
    assert metrics["AP_small"] == pytest.approx(0.75)
    assert metrics["AR_small"] == pytest.approx(1.0)
    for name in ("AP_medium", "AP50_large", "AR_large"):
        assert math.isnan(metrics[name])


def test_iou_thresholds_count_as_tenths():
    # 20 x 16 of 20 x 20: IoU 0.8, a hit at 0.50 ... 0.80: seven of ten thresholds.
    ground_truth = truth((1, 1, A, {}), names=("cat",))
    metrics = average_precision.coco_metrics(
        ground_truth, [hit(1, 1, [10, 10, 20, 16], 0.9)]
    )
    assert metrics["AP"] == pytest.approx(0.7)
    assert metrics["AP50"] == metrics["AP75"] == pytest.approx(1.0)


def test_size_is_the_annotations_area_where_it_has_one():
    ground_truth = truth((1, 1, [0, 0, 40, 40], {"area": 900.0}), names=("cat",))
    metrics = average_precision.coco_metrics(ground_truth, [])
    assert metrics["AP_small"] == 0
    assert math.isnan(metrics["AP_medium"])
    del ground_truth["annotations"][0]["area"]
    metrics = average_precision.coco_metrics(ground_truth, [])
    assert metrics["AP_medium"] == 0
    assert math.isnan(metrics["AP_small"])


def test_max_detections_is_no_limit_at_100():
    # 150 objects in one image, all found.
    boxes = [[20 * (i % 20), 20 * (i // 20), 10, 10] for i in range(150)]
    ground_truth = truth(*((1, 1, box, {}) for box in boxes), names=("cat",))
    detections = [hit(1, 1, box, 0.9 - i / 1000) for i, box in enumerate(boxes)]
    at_100 = average_precision.coco_metrics(ground_truth, detections)
    assert at_100["AR_100"] == pytest.approx(100 / 150)
    # 101 recall levels 0, 0.01 ... 1: of them 67 are at most 100 / 150.
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


def test_coco_leaves_crowds_and_difficult_objects_out():
    cat = (1, 1, A, {})
    on_b = [hit(1, 1, B, 0.95), hit(1, 1, A, 0.9)]
    ordinary = average_precision.coco_metrics(truth(cat, (1, 1, B, {})), on_b[:1])
    assert ordinary["AR_100"] == pytest.approx(0.5)
    for field in ("iscrowd", "difficult"):
        ground_truth = truth(cat, (1, 1, B, {field: 1}))
        # Neither a miss ...
        metrics = average_precision.coco_metrics(ground_truth, on_b[1:])
        assert metrics["AP/cat"] == pytest.approx(1.0), field
        # ... nor, when found, a false positive.
        metrics = average_precision.coco_metrics(ground_truth, on_b)
        assert metrics["AP/cat"] == pytest.approx(1.0), field
    # A crowd swallows every detection inside it, a difficult object one that fits.
    parts = [hit(1, 1, [60, 60, 20, 8], 0.97), hit(1, 1, [60, 70, 20, 8], 0.96)]
    for field, expected in (("iscrowd", 1.0), ("difficult", 1 / 3)):
        ground_truth = truth(cat, (1, 1, B, {field: 1}))
        metrics = average_precision.coco_metrics(ground_truth, parts + on_b[1:])
        assert metrics["AP/cat"] == pytest.approx(expected), field


def test_annotation_id_0_is_an_object_like_others():
    # COCO's code takes id 0 for "not matched"; `truth` counts ids from 0.
    metrics = average_precision.coco_metrics(
        truth((1, 1, A, {}), names=("cat",)), [hit(1, 1, A, 0.5)]
    )
    assert metrics["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("images", [0, 2])
@pytest.mark.parametrize("names", [(), ("cat", "dog")])
def test_nothing_to_find_is_nan(images, names):
    ground_truth = truth(images=images, names=names)
    false = [hit(1, 1, A, 0.5)] if images and names else []
    for detections in ([], false):
        metrics = average_precision.coco_metrics(ground_truth, detections)
        metrics |= average_precision.voc_metrics(ground_truth, detections)
        assert {"AP", "AR_100", "AP_small", "AP_11point"} <= metrics.keys()
        assert all(math.isnan(value) for value in metrics.values())


def test_nothing_found_is_zero():
    ground_truth = truth((1, 1, A, {}))
    metrics = average_precision.coco_metrics(ground_truth, [])
    metrics |= average_precision.voc_metrics(ground_truth, [])
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
    detections = [hit("a", 7, A, 0.5), hit("a", 90, A, 0.5)]
    metrics = average_precision.coco_metrics(ground_truth, detections)
    metrics |= average_precision.voc_metrics(ground_truth, detections)
    assert metrics["AP/cat"] == metrics["AP_11point/cat"] == pytest.approx(1.0)
    assert metrics["AP/dog"] == metrics["AP_11point/dog"] == 0


# --- VOC by hand


def test_voc_by_hand():
    # Best first: hit, false, hit, of 2 objects: precision 1, 1/2, 2/3 at recall
    # 1/2, 1/2, 1. From each recall on the best is 1 up to 1/2, then 2/3.
    ground_truth = truth((1, 1, A, {}), (2, 1, A, {}), names=("cat",))
    detections = [hit(2, 1, A, 0.7), hit(1, 1, FAR, 0.8), hit(1, 1, A, 0.9)]
    metrics = average_precision.voc_metrics(ground_truth, detections)
    assert metrics["AP_allpoint"] == pytest.approx(1 / 2 + 2 / 3 / 2)
    assert metrics["AP_11point"] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def test_voc_second_hit_is_false_and_only_the_best_object_counts():
    # Both detections overlap A most; the second is false though B' overlaps it by
    # more than 0.5 and is still free.
    shifted = [10, 14, 20, 20]
    ground_truth = truth((1, 1, A, {}), (1, 1, shifted, {}), names=("cat",))
    detections = [hit(1, 1, A, 0.9), hit(1, 1, [10, 11, 20, 20], 0.8)]
    metrics = average_precision.voc_metrics(ground_truth, detections)
    assert metrics["AP_allpoint"] == pytest.approx(0.5)
    # COCO gives the second one the object that is left.
    assert average_precision.coco_metrics(ground_truth, detections)["AP50"] == 1


def test_voc_leaves_out_difficult_objects_and_what_hits_them():
    ground_truth = truth((1, 1, A, {}), (1, 1, B, {"difficult": 1}), names=("cat",))
    detections = [hit(1, 1, B, 0.95), hit(1, 1, B, 0.94), hit(1, 1, A, 0.9)]
    metrics = average_precision.voc_metrics(ground_truth, detections)
    assert metrics["AP_11point"] == metrics["AP_allpoint"] == pytest.approx(1.0)


def test_voc_ties_go_by_order():
    ground_truth = truth((1, 1, A, {}), names=("cat",))
    good, bad = hit(1, 1, A, 0.5), hit(1, 1, FAR, 0.5)
    first = average_precision.voc_metrics(ground_truth, [good, bad])
    last = average_precision.voc_metrics(ground_truth, [bad, good])
    assert (first["AP_allpoint"], last["AP_allpoint"]) == (1.0, 0.5)


def test_voc_hit_needs_the_threshold_and_no_more():
    ground_truth = truth((1, 1, [0, 0, 10, 10], {}), names=("cat",))
    half = [hit(1, 1, [0, 0, 10, 5], 0.5)]
    for iou, expected in ((0.5, 1.0), (np.nextafter(0.5, 1), 0.0)):
        metrics = average_precision.voc_metrics(ground_truth, half, iou, False)
        assert metrics["AP_allpoint"] == expected
    # With the last pixel, 11 x 6 of 11 x 11.
    inclusive = average_precision.voc_metrics(ground_truth, half, 6 / 11)
    assert inclusive["AP_allpoint"] == 1.0


# --- resources


def test_the_memory_is_that_of_a_class_not_of_all():
    rng = np.random.default_rng(0)
    ground_truth = truth(names=tuple("abcd"))
    boxes = rng.uniform(1, 90, (8000, 4)).tolist()
    peaks = []
    for classes in (1, 4):
        detections = [hit(1, 1 + i % classes, b, 0.5) for i, b in enumerate(boxes)]
        tracemalloc.start()
        average_precision.coco_metrics(ground_truth, detections)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 0.6 * peaks[0]


def test_areas_of_stretched_images_change_what_is_small_and_no_overlap():
    """A 1000 x 500 image as 500 x 100: areas are divided by ten."""
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
        # Small there, and no object: it counts against the small ones alone.
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


def test_a_limit_that_an_area_meets_exactly_is_met_in_other_pixels():
    area = average_precision.area_in(5625.0, (600, 600), (256, 256))
    assert area == 1024
    assert average_precision.is_small(area)
