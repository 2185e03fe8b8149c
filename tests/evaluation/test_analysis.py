"""Curves, operating points and confusion against a computation by brute force."""

import json

import numpy as np
import pytest

from borrow_det.evaluation import analysis, average_precision, curves
from tests.evaluation import brute_force
from tests.evaluation.coco_records import FAR, A, B, detection, truth
from tests.evaluation.random_records import CLASSES, random_records

SEEDS = range(6)


@pytest.fixture(scope="module", params=SEEDS)
def records(request):
    """(truth, detections, analysis)."""
    ground_truth, detections = random_records(request.param)
    points = ("precision_0.5", "recall_0.5")
    found = analysis.analyze(ground_truth, detections, 2.0, points)
    return ground_truth, detections, found


def test_curves_equal_those_by_brute_force(records):
    ground_truth, detections, found = records
    categories = {"all": range(1, 4), "cat": [1], "dog": [2], "owl": [3]}
    compared = 0
    for key, sizes in found["curves"].items():
        for size, curve in sizes.items():
            limits = analysis.SIZES[size]
            objects = [
                a
                for a in ground_truth["annotations"]
                if a["category_id"] in categories[key]
                and not brute_force.ignores(a, limits)
            ]
            assert curve["objects"] == len(objects)
            for i, score in enumerate(curve["score"]):
                expected = brute_force.at_score(
                    ground_truth, detections, score, categories[key], limits
                )
                point = [curve[name][i] for name in ("precision", "recall", "f1")]
                assert point == pytest.approx(expected, abs=1e-6), (key, size, score)
                compared += 1
    assert compared > 50
    assert found["curves"]["owl"]["all"]["score"] == []  # There are none.


def test_all_distinct_scores_of_a_short_curve_are_kept(records):
    _, detections, found = records
    scores = found["curves"]["all"]["all"]["score"]
    assert scores == sorted(scores, reverse=True)
    assert set(scores) <= {d["score"] for d in detections}


def test_operating_points_are_the_best_of_all_scores(records):
    ground_truth, detections, found = records
    values = {
        score: brute_force.at_score(ground_truth, detections, score, range(1, 4))
        for score in found["curves"]["all"]["all"]["score"]
    }
    points = found["operating_points"]
    best = max(v[2] for v in values.values())
    assert points["best_f1"]["f1"] == pytest.approx(best)
    for name, kept, sought in (("precision", 0, 1), ("recall", 1, 0)):
        reached = [v[sought] for v in values.values() if v[kept] >= 0.5]
        point = points[f"{name}_0.5"]
        if not reached:
            assert point is None
            continue
        assert point[("precision", "recall")[sought]] == pytest.approx(
            max(reached), abs=1e-6
        )
        assert values[point["score"]][kept] >= 0.5
    for label, name in enumerate(CLASSES, start=1):
        curve = found["curves"][name]["all"]
        best = found["by_class"][name]
        assert (best is None) == (not curve["score"])
        if best:
            expected = brute_force.at_score(
                ground_truth, detections, best["score"], [label]
            )
            assert best["f1"] == pytest.approx(expected[2], abs=1e-6)


def test_confusion_equals_that_by_brute_force(records):
    ground_truth, detections, found = records
    confusion = found["confusion"]
    assert confusion["classes"] == [*CLASSES, "background"]
    assert confusion["score"] == found["operating_points"]["best_f1"]["score"]
    expected = brute_force.confusion(ground_truth, detections, confusion["score"])
    assert confusion["counts"] == expected
    # Each object is in one cell of its row.
    assert np.sum(confusion["counts"][:-1]) == found["curves"]["all"]["all"]["objects"]


def test_areas_in_other_pixels_decide_the_sizes():
    ground_truth, detections = average_precision.with_areas(
        *random_records(1), (200, 300)
    )
    found = analysis.analyze(ground_truth, detections, 2.0)
    for size in ("small", "medium"):
        curve = found["curves"]["all"][size]
        assert curve["objects"]
        for i, score in enumerate(curve["score"]):
            expected = brute_force.at_score(
                ground_truth, detections, score, range(1, 4), analysis.SIZES[size]
            )
            point = [curve[name][i] for name in ("precision", "recall", "f1")]
            assert point == pytest.approx(expected, abs=1e-6)


# --- by hand


def test_confusion_by_hand():
    # A cat taken by a dog, a missed dog, a dog in the background, a found cat.
    ground_truth = truth((1, 1, A, {}), (1, 2, B, {}), (2, 1, B, {}))
    detections = [
        detection(1, 2, A, 0.9),
        detection(1, 2, FAR, 0.8),
        detection(2, 1, B, 0.7),
        detection(1, 1, A, 0.1),  # Its cat is taken.
    ]
    found = analysis.analyze(ground_truth, detections, 2.0)["confusion"]
    assert found["score"] == 0.1
    assert found["counts"] == [[1, 1, 0], [0, 0, 1], [1, 1, 0]]


def test_equal_overlaps_go_to_the_object_of_the_same_class():
    ground_truth = truth((1, 1, A, {}), (1, 2, A, {}))
    for category in (1, 2):
        found = analysis.analyze(ground_truth, [detection(1, category, A, 0.5)], 2.0)
        expected = [[0, 0, 1], [0, 0, 1], [0, 0, 0]]
        expected[category - 1] = [int(category == k) for k in (1, 2, 3)]
        assert found["confusion"]["counts"] == expected


def test_points_by_hand():
    # Hits and false positives by falling score: 1 0 1 0, of 4 objects.
    curve = curves.curve(
        np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False]), 4
    )
    assert curve.precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2])
    assert curve.recall.tolist() == pytest.approx([1 / 4, 1 / 4, 1 / 2, 1 / 2])
    assert curve.f1.tolist() == pytest.approx([2 / 5, 1 / 3, 4 / 7, 1 / 2])

    def score(name):
        point = curves.operating_point(curve, name)
        return point and point["score"]

    assert score("best_f1") == 0.7
    assert score("precision_0.9") == 0.9
    assert score("precision_0.6") == 0.7  # Of 0.9 and 0.7, that of the higher recall.
    assert score("recall_0.5") == 0.7
    assert score("recall_0.25") == 0.9
    assert score("recall_0.75") is None


def test_equal_scores_are_one_point():
    curve = curves.curve(np.array([0.5, 0.5]), np.array([False, True]), 1)
    assert (curve.score.tolist(), curve.precision.tolist()) == ([0.5], [0.5])


def test_a_long_curve_is_stored_with_200_points_and_the_best_one():
    rng = np.random.default_rng(0)
    scores = np.sort(rng.random(5000))[::-1]
    curve = curves.curve(scores, rng.random(5000) < scores, 4000)
    stored = curve.as_json()
    assert 100 < len(stored["score"]) <= 200
    best = curves.operating_point(curve, "best_f1")
    assert best["score"] in stored["score"]
    assert max(stored["f1"]) == pytest.approx(best["f1"], abs=1e-6)
    assert stored["score"][-1] == scores[-1]
    # No gap in recall or score exceeds two of the 99 steps.
    assert np.diff(stored["recall"]).max() < 2 / 99
    assert -np.diff(stored["score"]).min() < 2 / 99


@pytest.mark.parametrize("name", ["best", "precision_0", "recall_1.5", "recall_0.90"])
def test_a_wrong_name_of_a_point_is_refused(name):
    with pytest.raises(curves.InputError, match="is not the name of an operating"):
        curves.check_name(name)


@pytest.mark.parametrize(
    ("annotations", "detections"),
    [((), []), (((1, 1, A, {}),), []), ((), [detection(1, 1, A, 0.5)])],
)
def test_without_objects_or_detections_there_is_no_point(annotations, detections):
    found = analysis.analyze(truth(*annotations), detections, 2.0)
    assert found["operating_points"] == {"best_f1": None}
    assert found["by_class"] == {"cat": None, "dog": None}
    counts = np.zeros((3, 3), int)
    counts[0, 2] = len(annotations)
    assert found["confusion"]["counts"] == counts.tolist()
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_class_named_all_has_a_curve_of_its_own():
    ground_truth = truth((1, 1, A, {}), (1, 2, B, {}), names=("all", "dog"))
    found = analysis.analyze(ground_truth, [detection(1, 1, A, 0.5)], 2.0)
    assert found["curves"]["all"]["all"]["objects"] == 2
    assert found["curves"]["all (class)"]["all"]["objects"] == 1
    assert found["by_class"]["all"]["recall"] == 1
