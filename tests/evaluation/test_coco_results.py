"""The reader of COCO's results files."""

import json
import math

import pytest

from borrow_det.errors import InputError
from borrow_det.evaluation import coco_format, coco_results
from borrow_det.io.problems import Problems

TRUTH = {
    "images": [{"id": 7}, {"id": "8"}, {"id": "img_9"}],
    "annotations": [],
    "categories": [
        {"id": 0, "name": "cell", "supercategory": "none"},
        {"id": 1, "name": "cell", "supercategory": "cell"},
        {"id": "b", "name": "other", "supercategory": "cell"},
    ],
}
FOUND = {"image_id": 7, "category_id": 1, "bbox": [1, 2.5, 3, 4], "score": 0.5}


def read(tmp_path, results):
    path = tmp_path / "found.json"
    path.write_text(json.dumps(results))
    annotations = coco_format.parse_annotations(TRUTH, "truth.json", Problems())
    return coco_results.read_results(path, annotations)


def test_ids_come_back_as_in_the_ground_truth(tmp_path):
    pairs = [(7, 1), ("7", "1"), (7.0, 1.0), (8, "b"), ("8", "b"), ("img_9", 1)]
    found = read(
        tmp_path,
        [FOUND | {"image_id": i, "category_id": c} for i, c in pairs],
    )
    ids = [(detection["image_id"], detection["category_id"]) for detection in found]
    assert ids == [(7, 1), (7, 1), (7, 1), ("8", "b"), ("8", "b"), ("img_9", 1)]


def test_boxes_and_scores_are_finite_numbers_in_the_order_of_the_file(tmp_path):
    records = [
        FOUND | {"file_name": "a.jpg", "bbox": [-1, 0, 0, 1e-3], "score": -3},
        FOUND | {"score": 1e300},
    ]
    assert read(tmp_path, records) == [
        FOUND | {"bbox": [-1.0, 0.0, 0.0, 0.001], "score": -3.0},
        FOUND | {"score": 1e300},
    ]


def test_detections_of_a_root_category_are_left_out(tmp_path):
    records = [FOUND | {"category_id": 0}, FOUND]
    assert read(tmp_path, records) == [FOUND]


@pytest.mark.parametrize(
    ("fields", "kind", "reason"),
    [
        ({"image_id": 9}, "unknown image", "image_id 9 is not in the ground truth"),
        ({"image_id": True}, "unknown image", "image_id True is not in"),
        ({"image_id": 7.5}, "unknown image", "image_id 7.5 is not in"),
        ({"image_id": [7]}, "unknown image", "image_id [7] is not in"),
        ({"image_id": None}, "unknown image", "image_id None is not in"),
        ({"category_id": "c"}, "unknown category", "category_id 'c' is not in"),
        ({"bbox": [1, 2, 3]}, "wrong box", "bbox [1, 2, 3] is not [x, y, width"),
        ({"bbox": [1, 2, 3, None]}, "wrong box", "bbox [1, 2, 3, None] is not"),
        ({"bbox": [1, 2, 3, True]}, "wrong box", "bbox [1, 2, 3, True] is not"),
        ({"bbox": [1, 2, 3, math.nan]}, "wrong box", "bbox [1, 2, 3, nan] is not"),
        ({"bbox": [1, 2, 3, 10**400]}, "wrong box", "bbox [1, 2, 3, 1"),
        ({"bbox": [1, 2, 1e300, 4]}, "wrong box", "bbox [1, 2, 1e+300, 4] is not a"),
        ({"bbox": "1234"}, "wrong box", "bbox '1234' is not"),
        ({"bbox": [1, 2, -3, 4]}, "wrong box", "bbox [1, 2, -3, 4] has a negative"),
        ({"score": "0.5"}, "wrong score", "score is '0.5', not a finite number"),
        ({"score": math.inf}, "wrong score", "score is inf, not a finite number"),
        ({"score": True}, "wrong score", "score is True, not a finite number"),
        ({"score": None}, "wrong score", "score is None, not a finite number"),
    ],
)
def test_wrong_records_are_refused_at_once_with_counts(tmp_path, fields, kind, reason):
    records = [FOUND, FOUND | fields, {}, FOUND | fields, 3]
    with pytest.raises(InputError) as error:
        read(tmp_path, records)
    message = str(error.value)
    place = f"{tmp_path}/found.json: detections"
    assert message.startswith(f"4 problems. {kind} (2): {place}[1]: {reason}")
    assert f"missing key (1): {place}[2]: the key 'image_id' is missing" in message
    assert f"invalid record (1): {place}[4]: must be a JSON object, not 3" in message
    assert message.endswith("give the annotation file that they belong to")


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (None, "None"),
        (5, "5"),
        ({}, r"an object with the keys \[\]"),
        (TRUTH, r"an object with the keys \['images', 'annotations', 'categories'\]"),
    ],
)
def test_results_are_a_list(tmp_path, data, shown):
    message = f"the detections must be a list of objects, not {shown}$"
    with pytest.raises(InputError, match=message):
        read(tmp_path, data)
