"""Small objects by the votes of other detectors, and by their lenders."""

import math

import pytest

from borrow_det.evaluation import confused_objects, counterfactual

SMALL = {"a": [0, 0, 10, 10], "b": [40, 0, 12, 12], "c": [80, 0, 10, 10]}


def scene(image_id, classes, large_class):
    """Small objects of these classes at a, b, c, and a large object."""
    boxes = list(zip(SMALL.values(), classes, strict=True))
    boxes.append(([0, 100, 100, 100], large_class))
    return [
        {"image_id": image_id, "category_id": c, "bbox": box, "area": box[2] * box[3]}
        for box, c in boxes
    ]


def answer(annotations, classes):
    """Detections of all small objects with these classes; None: not detected."""
    return [
        {**annotation, "category_id": c, "score": 0.9}
        for annotation, c in zip(annotations, classes, strict=False)
        if c is not None
    ]


@pytest.fixture
def truth():
    images = [{"id": i, "width": 300, "height": 300} for i in (1, 2)]
    annotations = scene(1, [1, 1, 2], 1) + scene(2, [2, 2, 1], 1)
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}],
    }


def evaluate(truth, first, second):
    found = answer(scene(1, [0] * 3, 0), first) + answer(scene(2, [0] * 3, 0), second)
    return confused_objects.small_objects(truth, found, 2.0)


def test_votes_of_others_divide_the_small_objects(truth):
    #                        1a 1b 1c            2a 2b   2c
    voters = [
        evaluate(truth, [1, 2, None], [1, None, 1]).answers,
        evaluate(truth, [1, 1, None], [2, None, 1]).answers,
        evaluate(truth, [2, 2, None], [None, 1, 1]).answers,
    ]
    # 1a: two of three right, clear. 1b: one of three, confused. 1c: never detected.
    # 2a: one of two, confused. 2b: wrong, confused. 2c: clear.
    own = evaluate(truth, [1, 1, 2], [1, 2, None])
    metrics = confused_objects.metrics(confused_objects.outcomes(own, voters))
    # Lenders, of class 1: for 1a, 1b and 2c.
    expected = {
        "small_accuracy": 4 / 6,  # 2a is wrong, 2c is not detected.
        "small_accuracy_with_lender": 2 / 3,
        "small_accuracy_without_lender": 2 / 3,
        "small_accuracy_confused": 2 / 3,
        "small_accuracy_confused_with_lender": 1.0,
        "small_accuracy_confused_without_lender": 1 / 2,
        "small_accuracy_clear": 1 / 2,
        "small_accuracy_clear_with_lender": 1 / 2,
        "small_accuracy_clear_without_lender": math.nan,
        "small_accuracy_undetected": 1.0,
        "small_accuracy_undetected_with_lender": math.nan,
        "small_accuracy_undetected_without_lender": 1.0,
        "objects_small_undetected": 1,
        "objects_small_undetected_with_lender": 0,
        "objects_small_undetected_without_lender": 1,
        "objects_small_confused": 3,
        "objects_small_confused_with_lender": 1,
        "objects_small_confused_without_lender": 2,
        "objects_small_clear": 2,
        "objects_small_clear_with_lender": 2,
        "objects_small_clear_without_lender": 0,
    }
    assert metrics == pytest.approx(expected, nan_ok=True)


def test_of_two_objects_with_the_same_box_the_last_one_counts():
    first, *_, large = scene(1, [1, 1, 1], 1)
    objects = [first, {**first, "category_id": 2}, large]
    truth = {
        "images": [{"id": 1, "width": 300, "height": 300}],
        "annotations": objects,
        "categories": [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}],
    }
    own = confused_objects.small_objects(truth, [], 2.0)
    assert own.answers == {(1, *SMALL["a"]): (2, None)}
    assert not own.with_lender  # The large object is of class 1.


def test_without_other_detectors_there_are_no_groups(truth):
    own = evaluate(truth, [1, 1, 2], [1, 2, None])
    metrics = confused_objects.metrics(confused_objects.outcomes(own, []))
    assert metrics == pytest.approx(
        {
            "small_accuracy": 4 / 6,
            "small_accuracy_with_lender": 2 / 3,
            "small_accuracy_without_lender": 2 / 3,
        }
    )


def test_the_accuracy_of_all_small_objects_is_that_of_the_counterfactual_metrics(truth):
    own = evaluate(truth, [1, 2, 2], [None, 2, 1])
    metrics = confused_objects.metrics(confused_objects.outcomes(own, []))
    reference = counterfactual.metrics({"val": own.answers}, [])
    assert metrics["small_accuracy"] == reference["val/small_accuracy"]
