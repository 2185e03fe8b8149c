"""Pascal VOC's metrics against published values and values computed by hand."""

import json

import numpy as np
import pytest

from borrow_det.evaluation import average_precision, voc
from tests.evaluation.coco_records import FAR, A, B, detection, truth


@pytest.mark.parametrize("iou", [0.1, 0.3, 0.5, 0.75])
def test_published_values(metric_vectors, iou):
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
    metrics = voc.voc_metrics(ground_truth, detections, iou)
    assert metrics["AP_11point"] == pytest.approx(
        expected["AP_11point"][str(iou)], abs=1e-6
    )
    assert metrics["AP_allpoint"] == pytest.approx(
        expected["AP_all_points"][str(iou)], abs=1e-6
    )
    # The source's README gives these two for boxes without the last pixel.
    exclusive = voc.voc_metrics(ground_truth, detections, iou, inclusive_pixels=False)
    without = {0.1: (0.3024538867, 0.2801328502), 0.3: (0.2683982684, 0.2253968254)}
    if iou in without:
        result = exclusive["AP_11point"], exclusive["AP_allpoint"]
        assert result == pytest.approx(without[iou], abs=1e-6)


def test_average_precision_computed_by_hand():
    # True, false and true positive, of 2 objects: precision 1, 1/2, 2/3 at recall
    # 1/2, 1/2, 1. The best precision is 1 up to recall 1/2, then 2/3.
    ground_truth = truth((1, 1, A, {}), (2, 1, A, {}), names=("cat",))
    detections = [
        detection(2, 1, A, 0.7),
        detection(1, 1, FAR, 0.8),
        detection(1, 1, A, 0.9),
    ]
    metrics = voc.voc_metrics(ground_truth, detections)
    assert metrics["AP_allpoint"] == pytest.approx(1 / 2 + 2 / 3 / 2)
    assert metrics["AP_11point"] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def test_a_second_detection_of_an_object_is_a_false_positive():
    # Both detections overlap A most. The second is a false positive, although it has an
    # IoU of more than 0.5 with the other object, which is not found.
    shifted = [10, 14, 20, 20]
    ground_truth = truth((1, 1, A, {}), (1, 1, shifted, {}), names=("cat",))
    detections = [detection(1, 1, A, 0.9), detection(1, 1, [10, 11, 20, 20], 0.8)]
    metrics = voc.voc_metrics(ground_truth, detections)
    assert metrics["AP_allpoint"] == pytest.approx(0.5)
    # COCO assigns the second detection to the other object.
    assert average_precision.coco_metrics(ground_truth, detections)["AP50"] == 1


def test_difficult_objects_and_detections_on_them_are_ignored():
    ground_truth = truth((1, 1, A, {}), (1, 1, B, {"difficult": 1}), names=("cat",))
    detections = [
        detection(1, 1, B, 0.95),
        detection(1, 1, B, 0.94),
        detection(1, 1, A, 0.9),
    ]
    metrics = voc.voc_metrics(ground_truth, detections)
    assert metrics["AP_11point"] == metrics["AP_allpoint"] == pytest.approx(1.0)


def test_ties_keep_the_order_of_the_list():
    ground_truth = truth((1, 1, A, {}), names=("cat",))
    good, bad = detection(1, 1, A, 0.5), detection(1, 1, FAR, 0.5)
    first = voc.voc_metrics(ground_truth, [good, bad])
    last = voc.voc_metrics(ground_truth, [bad, good])
    assert (first["AP_allpoint"], last["AP_allpoint"]) == (1.0, 0.5)


def test_an_iou_at_the_threshold_is_a_true_positive():
    ground_truth = truth((1, 1, [0, 0, 10, 10], {}), names=("cat",))
    half = [detection(1, 1, [0, 0, 10, 5], 0.5)]
    for iou, expected in ((0.5, 1.0), (np.nextafter(0.5, 1), 0.0)):
        metrics = voc.voc_metrics(ground_truth, half, iou, False)
        assert metrics["AP_allpoint"] == expected
    # With inclusive pixels, the IoU is 11 x 6 / (11 x 11).
    inclusive = voc.voc_metrics(ground_truth, half, 6 / 11)
    assert inclusive["AP_allpoint"] == 1.0
