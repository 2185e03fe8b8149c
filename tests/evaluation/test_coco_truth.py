"""The COCO dictionary of metrics, from annotations and the policy for bad boxes."""

import math

import numpy as np
import pytest

from borrow_det.errors import InputError
from borrow_det.evaluation import bad_boxes, coco_format, coco_truth
from borrow_det.io.problems import Problems

SIZE = {"width": 20, "height": 10}


def truth(boxes, policy="error", image=SIZE, **fields):
    """Returns (COCO dictionary, problems) of one image with these boxes."""
    data = {
        "images": [{"id": "a", "file_name": "a.jpg", **image}],
        "annotations": [
            {"id": i, "image_id": "a", "category_id": 5, "bbox": box, **fields}
            for i, box in enumerate(boxes)
        ],
        "categories": [{"id": 5, "name": "cat"}],
    }
    problems = Problems()
    annotations = coco_format.parse_annotations(data, "f.json", problems)
    assert not list(problems)
    return coco_truth.to_coco(annotations, policy, problems), problems


def test_the_dictionary_has_what_the_file_has():
    found, problems = truth([[1, 2, 3.3, 4]], area=7, iscrowd="1", ignore=True)
    assert found == {
        "images": [{"id": "a", "file_name": "a.jpg", "width": 20, "height": 10}],
        "annotations": [
            {
                "id": 1,
                "image_id": "a",
                "category_id": 5,
                "bbox": [1.0, 2.0, 3.3, 4.0],
                "area": 7.0,
                "iscrowd": 1,
                "difficult": 1,
            }
        ],
        "categories": [{"id": 5, "name": "cat"}],
    }
    assert not list(problems)


@pytest.mark.parametrize("area", [None, 0, -1, math.nan, "7"])
def test_the_area_of_the_box_replaces_a_missing_area(area):
    found, _ = truth([[1, 2, 3.3, 4]], area=area)
    assert found["annotations"][0]["area"] == 3.3 * 4


BAD = {
    "box outside its image": [[10, 2, 30, 4], [-3, 2, 4, 4], [30, 2, 3, 4]],
    "box without area": [[1, 2, 0, 4], [1, 2, 3, -1]],
    "box that is not finite": [[1, 2, math.nan, 4], [-math.inf, 2, math.inf, 4]],
    "box that is not four numbers": [None, [], [1, 2, 3], ["1", "2", "3", "4"]],
}


@pytest.mark.parametrize("kind", BAD)
def test_the_policy_error_reports_all_bad_boxes(kind):
    boxes = BAD[kind]
    found, problems = truth([*boxes, [1, 2, 3, 4]])
    assert problems.counts() == {kind: len(boxes)}
    assert len(found["annotations"]) == 1
    first = next(iter(problems))
    assert first.record == "annotations[0] (id 0)"
    assert " in a.jpg " in first.reason


def test_the_policies_clip_and_drop_bad_boxes():
    boxes = [box for boxes in BAD.values() for box in boxes]
    found, problems = truth([[1, 2, 3, 4], *boxes], "clip")
    kept = [(a["bbox"], a["area"]) for a in found["annotations"]]
    assert kept == [
        ([1.0, 2.0, 3.0, 4.0], 12.0),
        ([10.0, 2.0, 10.0, 4.0], 40.0),
        ([0.0, 2.0, 1.0, 4.0], 4.0),
    ]
    assert not list(problems)
    found, problems = truth([[1, 2, 3, 4], *boxes], "drop")
    assert [a["bbox"] for a in found["annotations"]] == [[1.0, 2.0, 3.0, 4.0]]
    assert not list(problems)


@pytest.mark.parametrize("policy", bad_boxes.POLICIES)
def test_boxes_that_leave_the_image_by_a_pixel_stay_as_annotated(policy):
    boxes = [[-0.1, -1.0, 20.9, 11.7], [0.1, 0.2, 0.3, 0.7]]
    found, problems = truth(boxes, policy)
    assert [a["bbox"] for a in found["annotations"]] == boxes
    assert [a["area"] for a in found["annotations"]] == [20.9 * 11.7, 0.3 * 0.7]
    assert not list(problems)


def test_without_a_size_only_area_and_negative_coordinates_are_checked():
    boxes = [[1e6, 2, 30, 4], [-3, 2, 4, 4], [1, 2, 0, 4]]
    found, problems = truth(boxes, image={})
    assert [a["bbox"] for a in found["annotations"]] == [[1e6, 2.0, 30.0, 4.0]]
    assert [p.reason for p in problems] == [
        "the box [-3, 2, 4, 4] in a.jpg is outside its image",
        "the box [1, 2, 0, 4] in a.jpg has no area",
    ]
    assert found["images"] == [{"id": "a", "file_name": "a.jpg"}]


def test_an_unknown_policy_is_refused():
    with pytest.raises(InputError, match=r"dataset\.bad_boxes is 'keep'"):
        truth([], "keep")


def test_corners_are_in_the_order_of_the_network():
    boxes = np.array([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, np.inf, 1.0]])
    corners = coco_truth.corners(boxes)
    assert corners.tolist() == [[2.0, 1.0, 6.0, 4.0], [0.0, 0.0, 1.0, math.inf]]


def test_coco_boxes_come_back_from_corners():
    corners = np.array([[2.0, 1.0, 6.0, 4.0], [0.5, 0.0, 1.0, 8.0]])
    bbox = coco_truth.from_corners(corners)
    assert bbox.tolist() == [[1.0, 2.0, 3.0, 4.0], [0.0, 0.5, 8.0, 0.5]]
    np.testing.assert_array_equal(coco_truth.corners(bbox), corners)
