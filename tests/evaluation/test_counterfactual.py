"""Answers for small objects in two splits, counted by hand."""

import math

import pytest

from borrow_det.evaluation import counterfactual

LARGE = [100, 100, 60, 60]
BOXES = [[0, 0, 10, 10], [20, 0, 10, 10], [40, 0, 10, 10], [60, 0, 10, 10]]


def truth(labels, large=(), **extra):
    """Makes one image with id 7 and a small object for each label, at BOXES."""
    objects = [(c, b) for c, b in zip(labels, BOXES, strict=False)]
    objects += [(c, LARGE) for c in large]
    return {
        "annotations": [
            {"image_id": 7, "category_id": c, "bbox": b, "area": b[2] * b[3], **extra}
            for c, b in objects
        ]
    }


def detections_of(*answers):
    """Makes a detection at each of BOXES, none for a class of None."""
    return [
        {"image_id": 7, "category_id": c, "bbox": b, "score": 0.5}
        for c, b in zip(answers, BOXES, strict=True)
        if c is not None
    ]


def test_metrics_counted_by_hand():
    splits = {
        # Correct, correct, incorrect, no answer.
        "real": counterfactual.answers(
            truth([1, 1, 2, 2], [1]), detections_of(1, 1, 1, None)
        ),
        # Changes with its label, does not change, becomes correct, is found.
        "other": counterfactual.answers(
            truth([3, 3, 4, 4], [3]), detections_of(3, 1, 4, 4)
        ),
        # Does not change, changes, no answer, is found.
        "none": counterfactual.answers(
            truth([1, 1, 2, 2]), detections_of(1, 4, None, 4)
        ),
    }
    found = counterfactual.metrics(splits, [("real", "other"), ("real", "none")])
    assert found == {
        "real/small_accuracy": 2 / 4,
        "real/small_recall": 3 / 4,
        "other/small_accuracy": 3 / 4,
        "other/small_recall": 1,
        "none/small_accuracy": 1 / 4,
        "none/small_recall": 3 / 4,
        # Three have an answer in both; all four labels differ.
        "other/unchanged": pytest.approx(1 / 3),
        "other/consistency": 1 / 4,
        # Two have an answer in both.
        "none/unchanged": 1 / 2,
    }


def test_an_object_without_an_answer_is_not_consistent():
    splits = {
        "real": counterfactual.answers(
            truth([1, 1]), detections_of(1, None, None, None)
        ),
        "other": counterfactual.answers(
            truth([3, 3]), detections_of(None, 3, None, None)
        ),
    }
    found = counterfactual.metrics(splits, [("real", "other")])
    assert found["other/consistency"] == 0
    assert math.isnan(found["other/unchanged"])


def test_the_answer_is_the_class_with_the_best_score():
    detections = [
        {"image_id": 7, "category_id": 1, "bbox": BOXES[0], "score": 0.3},
        # An IoU of exactly 0.5, then a smaller one.
        {"image_id": 7, "category_id": 2, "bbox": [0, 0, 10, 5], "score": 0.6},
        {"image_id": 7, "category_id": 3, "bbox": [0, 0, 10, 4.9], "score": 0.9},
        {"image_id": 8, "category_id": 4, "bbox": BOXES[0], "score": 0.9},
    ]
    (answer,) = counterfactual.answers(truth([1]), detections).values()
    assert answer == (1, 2)


def test_large_and_ignored_objects_do_not_count():
    assert counterfactual.answers(truth([], [1]), []) == {}
    for field in ("iscrowd", "difficult"):
        assert (
            counterfactual.answers(
                truth([1], **{field: 1}), detections_of(1, *[None] * 3)
            )
            == {}
        )


def test_without_objects_metrics_are_nan_and_without_splits_there_are_none():
    empty = counterfactual.answers({"annotations": []}, [])
    found = counterfactual.metrics({"a": empty, "b": empty}, [("a", "b")])
    assert set(found) == {
        *("a/small_accuracy", "a/small_recall"),
        *("b/small_accuracy", "b/small_recall", "b/unchanged"),
    }
    assert all(math.isnan(value) for value in found.values())
    assert counterfactual.metrics({}, []) == {}
