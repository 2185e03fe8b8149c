"""Top-1 and top-5 counted by hand."""

import pytest

from borrow_det.evaluation.accuracy import accuracy


def result(label, top_labels, loss):
    return {"label": label, "top_labels": top_labels, "loss": loss}


def test_ranks_count():
    results = [
        result(3, [3, 0, 1, 2, 4], 0.1),  # First.
        result(4, [0, 3, 1, 2, 4], 1.5),  # Fifth.
        result(9, [0, 3, 1, 2, 4], 4.0),  # Not among them.
        result(0, [1, 0, 2, 3, 4], 0.4),  # Second.
    ]
    metrics = accuracy(results, num_classes=10)
    assert metrics == {"top1": 0.25, "top5": 0.75, "loss": pytest.approx(1.5)}


def test_five_of_five_says_nothing():
    results = [result(1, [0, 1, 2, 3, 4], 2.0), result(2, [2, 0, 1, 3, 4], 1.0)]
    assert accuracy(results, num_classes=5) == {"top1": 0.5, "loss": 1.5}
