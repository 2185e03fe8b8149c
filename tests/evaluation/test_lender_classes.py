"""Detections on small objects with the predicted class of the lender."""

import copy

import pytest

from borrow_det.evaluation import average_precision
from borrow_det.evaluation.lender_classes import with_classes_of_lenders
from tests.evaluation.random_records import random_records

CAT, DOG = 1, 2
LARGE, OTHER = [0, 0, 60, 60], [100, 0, 60, 60]
SMALL = [200, 200, 20, 20]


def truth(*objects):
    """Objects (category, box) of one image."""
    annotations = [
        {
            "id": i,
            "image_id": 1,
            "category_id": category,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for i, (category, box) in enumerate(objects)
    ]
    return {
        "images": [{"id": 1, "width": 400, "height": 400}],
        "categories": [{"id": CAT, "name": "cat"}, {"id": DOG, "name": "dog"}],
        "annotations": annotations,
    }


def detection(category, box, score):
    return {"image_id": 1, "category_id": category, "bbox": box, "score": score}


SCENE = truth((CAT, LARGE), (DOG, OTHER), (CAT, SMALL))
ON_LARGE, ON_OTHER = detection(CAT, LARGE, 0.9), detection(DOG, OTHER, 0.8)


def answer(scene, *detections):
    """Returns (category, score) of the detections on the small object."""
    changed = with_classes_of_lenders(scene, detections, 2.0)
    return [(d["category_id"], d["score"]) for d in changed if d["bbox"] == SMALL]


def test_a_wrong_class_becomes_that_of_the_lender_and_duplicates_go():
    wrong, right = detection(DOG, SMALL, 0.7), detection(CAT, SMALL, 0.2)
    assert answer(SCENE, right, ON_LARGE, wrong, ON_OTHER) == [(CAT, 0.7)]


def test_a_lender_that_is_taken_for_another_class_lends_that_class():
    mistaken = detection(DOG, LARGE, 0.9)
    assert answer(SCENE, mistaken, detection(CAT, SMALL, 0.7)) == [(DOG, 0.7)]


def test_the_largest_lender_that_is_detected_lends():
    larger = [0, 100, 80, 80]
    scene = truth((CAT, LARGE), (CAT, larger), (CAT, SMALL))
    small = detection(CAT, SMALL, 0.7)
    assert answer(scene, ON_LARGE, detection(DOG, larger, 0.3), small) == [(DOG, 0.7)]
    assert answer(scene, ON_LARGE, small) == [(CAT, 0.7)]


@pytest.mark.parametrize(
    ("scene", "found"),
    [
        (SCENE, [ON_OTHER]),  # The lender is not detected.
        (truth((DOG, OTHER), (CAT, SMALL)), [ON_OTHER]),  # There is none.
        (
            truth((CAT, [0, 0, 39, 39]), (CAT, SMALL)),
            [detection(CAT, [0, 0, 39, 39], 1)],
        ),
    ],
)
def test_without_a_detected_lender_all_detections_stay(scene, found):
    on_small = [detection(DOG, SMALL, 0.7), detection(CAT, SMALL, 0.2)]
    assert answer(scene, *found, *on_small) == [(DOG, 0.7), (CAT, 0.2)]


def test_an_object_does_not_lend_to_itself():
    found = [detection(DOG, SMALL, 0.7), detection(CAT, SMALL, 0.2)]
    assert with_classes_of_lenders(truth((CAT, SMALL)), found, 1.0) == found


def test_detections_elsewhere_and_on_large_objects_stay():
    background = detection(DOG, [300, 300, 20, 20], 0.6)
    doubled = [ON_LARGE, background, detection(DOG, LARGE, 0.1)]
    assert with_classes_of_lenders(SCENE, doubled, 2.0) == doubled


def test_copied_classes_do_not_change_the_score_of_correct_detections():
    scene, _ = random_records(0, 20)
    found = [
        {**{k: a[k] for k in ("image_id", "category_id", "bbox")}, "score": 0.5}
        for a in scene["annotations"]
        if not average_precision.is_ignored(a)
    ]
    before = copy.deepcopy(found)
    changed = with_classes_of_lenders(scene, found, 2.0)
    assert found == before
    expected = average_precision.coco_metrics(scene, found)
    scored = average_precision.coco_metrics(scene, changed)
    assert scored["AP_small"] == pytest.approx(expected["AP_small"], abs=1e-12)
