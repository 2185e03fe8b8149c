"""Groups of metrics in TensorBoard."""

import pytest

from borrow_det.reporting import tags


def test_training_metrics_have_a_group():
    assert tags.training_tag("loss/matching") == "training/loss/matching"


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("val/AP_small", "evaluation"),
        ("val/AP/cat", "evaluation"),
        ("val/AP/attention/x", "evaluation"),  # A class.
        ("val/AP/AP_small_with_lender", "evaluation"),
        ("val/top1", "evaluation"),
        ("val/attention/lift_same", "borrowing"),
        ("val/attention/level1/entropy", "borrowing"),
        ("val/AP50_small_without_lender", "borrowing"),
        ("val/objects_small_with_lender", "borrowing"),
        ("counterfactual/swapped/consistency", "borrowing"),
    ],
)
def test_metrics_of_borrowing_are_apart_from_those_of_evaluation(name, group):
    assert tags.evaluation_tag(name) == f"{group}/{name}"
