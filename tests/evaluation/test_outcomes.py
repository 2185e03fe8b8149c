"""Outcomes of detections and objects, and their counts at all thresholds."""

import collections

import numpy as np
import pytest

from borrow_det.evaluation import errors, outcomes, pairing
from tests.evaluation.random_records import CLASSES, random_records
from tests.reporting.results_page.brute_force import counts_of_the_better_detections


def records(seed):
    truth, detections = random_records(seed, images=12)
    rng = np.random.default_rng(seed)
    for detection in detections[::2]:  # The others are multiples of 0.1.
        detection["score"] = float(rng.uniform())
    return truth, detections


THRESHOLDS = outcomes.thresholds(0.3456)


def found_in(truth, detections):
    pairs = pairing.pair(truth, detections)
    kinds = errors.kinds(truth, detections, pairs)
    return outcomes.outcomes(truth, detections, pairs, kinds, THRESHOLDS)


def counts_in_the_table(table, threshold):
    counts = collections.Counter()
    for label, row in enumerate(table["objects"]):
        for size, objects in zip(outcomes.SIZES, row, strict=True):
            counts[label, size, "not found"] += objects
            counts[label, size, "missed"] += objects
    for rows in ("detections", "reached"):
        for label, size, kind, thresholds, numbers in table[rows]:
            number = sum(
                n for at, n in zip(thresholds, numbers, strict=True) if at >= threshold
            )
            size = outcomes.SIZES[size]
            if rows == "reached":
                counts[label, size, "missed"] -= number
                continue
            counts[label, size, outcomes.DETECTION_KINDS[kind]] += number
            if kind == 0:
                counts[label, size, "not found"] -= number
    return counts


@pytest.mark.parametrize("seed", range(3))
def test_counts_at_every_threshold_are_those_of_the_better_detections(seed):
    truth, detections = records(seed)
    table = outcomes.table(found_in(truth, detections), len(CLASSES))
    assert len(THRESHOLDS) == 102
    for index, threshold in enumerate(THRESHOLDS):
        expected = counts_of_the_better_detections(truth, detections, threshold)
        assert +counts_in_the_table(table, index) == +expected


def test_a_score_at_a_threshold_reaches_it():
    expected = sorted([i / 100 for i in range(101)] + [0.3456])
    assert THRESHOLDS.tolist() == expected
    assert outcomes.thresholds(0.3).tolist() == [i / 100 for i in range(101)]
    reached = outcomes.highest_threshold(expected, THRESHOLDS)
    assert reached.tolist() == list(range(102))
    below = np.nextafter(expected[1:], 0)
    reached = outcomes.highest_threshold(below, THRESHOLDS)
    assert reached.tolist() == list(range(101))


def test_a_split_without_detections_or_objects_has_an_empty_table():
    truth, _ = records(0)
    truth["annotations"] = []
    table = outcomes.table(found_in(truth, []), len(CLASSES))
    assert table == {"objects": [[0, 0, 0]] * 3, "detections": [], "reached": []}
