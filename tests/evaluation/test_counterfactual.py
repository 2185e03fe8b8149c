"""Answers for small objects on two splits, counted by hand."""

import math

import pytest

from borrow_det.evaluation import counterfactual

LARGE = [100, 100, 60, 60]
BOXES = [[0, 0, 10, 10], [20, 0, 10, 10], [40, 0, 10, 10], [60, 0, 10, 10]]


def truth(labels, large=(), **extra):
    """One image of id 7 with a small object a label, at BOXES."""
    objects = [(c, b) for c, b in zip(labels, BOXES, strict=False)]
    objects += [(c, LARGE) for c in large]
    return {
        "annotations": [
            {"image_id": 7, "category_id": c, "bbox": b, "area": b[2] * b[3], **extra}
            for c, b in objects
        ]
    }


def says(*answers):
    """A detection at each of BOXES of that class, none where it is None."""
    return [
        {"image_id": 7, "category_id": c, "bbox": b, "score": 0.5}
        for c, b in zip(answers, BOXES, strict=True)
        if c is not None
    ]


def test_by_hand():
    splits = {
        # Right, right, wrong, none.
        "real": counterfactual.answers(truth([1, 1, 2, 2], [1]), says(1, 1, 1, None)),
        # Follows, stays, becomes right, is found.
        "other": counterfactual.answers(truth([3, 3, 4, 4], [3]), says(3, 1, 4, 4)),
        # Stays, changes, none, is found.
        "none": counterfactual.answers(truth([1, 1, 2, 2]), says(1, 4, None, 4)),
    }
    found = counterfactual.metrics(splits, [("real", "other"), ("real", "none")])
    assert found == {
        "real/small_accuracy": 2 / 4,
        "real/small_found": 3 / 4,
        "other/small_accuracy": 3 / 4,
        "other/small_found": 1,
        "none/small_accuracy": 1 / 4,
        "none/small_found": 3 / 4,
        # Of three that are answered in both; of all four.
        "other/stayed": pytest.approx(1 / 3),
        "other/followed": 1 / 4,
        # Of two.
        "none/stayed": 1 / 2,
    }


def test_who_says_nothing_does_not_follow():
    splits = {
        "real": counterfactual.answers(truth([1, 1]), says(1, None, None, None)),
        "other": counterfactual.answers(truth([3, 3]), says(None, 3, None, None)),
    }
    found = counterfactual.metrics(splits, [("real", "other")])
    assert found["other/followed"] == 0
    assert math.isnan(found["other/stayed"])


def test_the_best_score_of_any_class_answers():
    detections = [
        {"image_id": 7, "category_id": 1, "bbox": BOXES[0], "score": 0.3},
        # IoU 0.5 exactly, then less than that.
        {"image_id": 7, "category_id": 2, "bbox": [0, 0, 10, 5], "score": 0.6},
        {"image_id": 7, "category_id": 3, "bbox": [0, 0, 10, 4.9], "score": 0.9},
        {"image_id": 8, "category_id": 4, "bbox": BOXES[0], "score": 0.9},
    ]
    (answer,) = counterfactual.answers(truth([1]), detections).values()
    assert answer == (1, 2)


def test_large_and_ignored_objects_are_not_asked_for():
    assert counterfactual.answers(truth([], [1]), []) == {}
    for field in ("iscrowd", "difficult"):
        assert (
            counterfactual.answers(truth([1], **{field: 1}), says(1, *[None] * 3)) == {}
        )


def test_nothing_is_nan_and_no_splits_are_nothing():
    empty = counterfactual.answers({"annotations": []}, [])
    found = counterfactual.metrics({"a": empty, "b": empty}, [("a", "b")])
    assert set(found) == {
        *("a/small_accuracy", "a/small_found"),
        *("b/small_accuracy", "b/small_found", "b/stayed"),
    }
    assert all(math.isnan(value) for value in found.values())
    assert counterfactual.metrics({}, []) == {}
