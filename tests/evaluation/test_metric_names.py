"""Metrics of earlier versions are read under their present names."""

import json

import pytest

from borrow_det import evaluate
from borrow_det.evaluation import metric_names
from borrow_det.visualization import curves

# An evaluation and a comparison of splits, as a run of an earlier version wrote them.
EVALUATION = {
    "step": 240,
    "AP": 0.4,
    "AP50_small": 0.25,
    "AP/followed": 0.5,
    "AP_small_with_source": 0.3,
    "AP50_small_without_source": None,
    "AR_small_with_source": 0.6,
    "objects_small_with_source": 128.0,
    "borrow/objects": 100.0,
    "borrow/precision_same": 0.75,
    "borrow/lift_other": 0.5,
    "borrow/level1/query_dependence": 0.125,
    "borrow/level1/share_level4": 0.1,
}
COMPARISON = {
    "step": 240,
    "validation/small_accuracy": 0.75,
    "validation/small_found": 0.9,
    "swapped/stayed": 0.25,
    "swapped/followed": 0.5,
}


def write(path, record):
    path.write_text(json.dumps(record))
    return path


def test_an_evaluation_of_an_earlier_version_is_read(tmp_path):
    found = evaluate.read_metrics(write(tmp_path / "240.json", EVALUATION))
    assert found == pytest.approx(
        {
            "AP": 0.4,
            "AP50_small": 0.25,
            "AP/followed": 0.5,
            "AP_small_with_lender": 0.3,
            "AP50_small_without_lender": float("nan"),
            "AR_small_with_lender": 0.6,
            "objects_small_with_lender": 128.0,
            "attention/objects": 100.0,
            "attention/precision_same": 0.75,
            "attention/lift_other": 0.5,
            "attention/level1/query_dependence": 0.125,
            "attention/level1/share_level4": 0.1,
        },
        nan_ok=True,
    )


def test_a_comparison_of_an_earlier_version_is_read(tmp_path):
    found = evaluate.read_metrics(write(tmp_path / "240.json", COMPARISON))
    assert found == {
        "validation/small_accuracy": 0.75,
        "validation/small_recall": 0.9,
        "swapped/unchanged": 0.25,
        "swapped/consistency": 0.5,
    }


def test_curves_continue_under_the_present_name(tmp_path, monkeypatch):
    lines = [
        {"step": 1, "val/AP_small_with_source": 0.25},
        {"step": 2, "val/AP_small_with_lender": 0.5},
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    drawn = {}
    monkeypatch.setattr(curves, "make_panels", lambda series: drawn.update(series))
    curves.learning_curves(path, tmp_path / "curves.png")
    assert drawn == {"val/AP_small_with_lender": [(1, 0.25), (2, 0.5)]}


@pytest.mark.parametrize(
    ("former", "present"),
    [
        ("val/borrow/level2/lift_same", "val/attention/level2/lift_same"),
        ("val/objects_small_without_source", "val/objects_small_without_lender"),
        ("counterfactual/swapped/followed", "counterfactual/swapped/consistency"),
        ("followed", "consistency"),
    ],
)
def test_the_names_of_splits_may_precede_a_name(former, present):
    assert metric_names.current_name(former) == present
    assert metric_names.current_name(present) == present


@pytest.mark.parametrize(
    "name",
    [
        *("loss/matching", "AP_small", "val/AP50_small", "borrow/other"),
        # A class may have any name.
        *("AP/followed", "val/AP50/stayed", "AP/borrow/entropy", "AP_11point/followed"),
    ],
)
def test_other_names_do_not_change(name):
    assert metric_names.current_name(name) == name
