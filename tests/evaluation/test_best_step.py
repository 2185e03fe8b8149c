"""The choice of the best step: its metric, ties, and what an earlier start left."""

import json
import math

import pytest

from borrow_det.errors import InputError
from borrow_det.evaluation.best_step import (
    BestStep,
    Criterion,
    first_largest,
    make_criterion,
)
from borrow_det.workdir import best

OFFERED = {
    "val": lambda: ("AP_small", "AP", "AP50", "AP/val"),
    "test[:16]": lambda: ("AP", "AP/cat"),
}
AP = Criterion("val", "AP")


def small():
    return "AP_small"


def nothing():
    return None


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("auto", ("val", "AP_small")),
        ("AP50", ("val", "AP50")),
        ("val/AP50", ("val", "AP50")),
        ("AP/val", ("val", "AP/val")),
        ("test[:16]/AP", ("test[:16]", "AP")),
        ("test_16/AP/cat", ("test[:16]", "AP/cat")),
    ],
)
def test_the_field_names_a_metric_of_the_first_split_or_of_the_one_it_names(
    field, expected
):
    assert make_criterion(field, small, OFFERED) == expected


def test_nothing_is_chosen_without_a_metric():
    assert make_criterion("", small, OFFERED) is None
    assert make_criterion("auto", nothing, OFFERED) is None


@pytest.mark.parametrize("field", ["AP_smal", "AP/cat", "test[:16]/AP50", "train/AP"])
def test_a_metric_that_no_split_has_is_refused_with_those_that_exist(field):
    with pytest.raises(InputError) as error:
        make_criterion(field, small, OFFERED)
    assert str(error.value) == (
        f"checkpoint_best is {field!r}; it must be auto, empty, or a METRIC of val or "
        "SPLIT/METRIC that is defined there (on val: AP_small, AP, AP50; on "
        "test[:16]: AP)"
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, None),
        ({2: math.nan}, None),
        ({2: math.nan, 4: 0.0}, 4),
        ({2: 0.5, 4: 0.75, 6: 0.25}, 4),
        ({6: 0.75, 4: 0.75, 2: 0.5}, 4),  # Of equal values the earlier.
    ],
)
def test_the_first_largest_value_is_the_best_and_nan_never(values, expected):
    assert first_largest(values) == expected


def write_metrics(folder, values):
    lines = [{"step": 2, "loss": 1.0}]
    lines += [{"step": step, "val/AP": value} for step, value in values.items()]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)


def test_evaluations_are_compared_as_they_come(tmp_path):
    found = BestStep(AP, tmp_path, 0, [])
    gains = [
        found.add(step, {"val": {"AP": value}})
        for step, value in ((2, math.nan), (4, 0.25), (6, 0.25), (8, 0.5), (8, 0.5))
    ]
    assert gains == [False, True, False, True, False]
    assert found.record == best.Best(8, "val", "AP", 0.5)
    found.write()
    assert best.read(tmp_path) == found.record


def test_a_resumed_run_knows_the_earlier_evaluations(tmp_path):
    write_metrics(tmp_path, {2: 0.25, 4: 0.5, 6: None, 8: 0.375})
    found = BestStep(AP, tmp_path, 6, [4, 6])
    assert found.record == best.Best(4, "val", "AP", 0.5)
    assert not found.add(8, {"val": {"AP": 0.5}})
    assert found.add(10, {"val": {"AP": 0.625}})


def test_best_json_that_a_crash_left_out_is_written_by_the_next_start(tmp_path):
    best.write(tmp_path, best.Best(2, "val", "AP", 0.25))
    write_metrics(tmp_path, {2: 0.25, 4: 0.5})
    found = BestStep(AP, tmp_path, 4, [2, 4])
    found.write()
    assert best.read(tmp_path) == best.Best(4, "val", "AP", 0.5)


def test_only_a_step_with_a_checkpoint_is_the_best(tmp_path):
    # As of a run that began without checkpoint_best, or by another metric.
    write_metrics(tmp_path, {2: 0.75, 4: 0.25, 6: 0.5})
    assert BestStep(AP, tmp_path, 6, [4, 6]).step == 6
    assert BestStep(AP, tmp_path, 6, []).step is None
    assert BestStep(Criterion("val", "AP50"), tmp_path, 6, [4, 6]).step is None


def test_best_json_is_read_if_the_metrics_were_moved_away(tmp_path):
    best.write(tmp_path, best.Best(4, "val", "AP", 0.5))
    assert BestStep(AP, tmp_path, 6, [4, 6]).record.value == 0.5
    assert BestStep(AP, tmp_path, 2, [2]).step is None
    assert BestStep(Criterion("val", "AP50"), tmp_path, 6, [4, 6]).step is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, 0),
        ({2: 0.5}, 0),
        ({2: 0.5, 4: 0.5}, 1),
        ({2: 0.5, 4: 0.25, 6: None}, 2),
        ({2: 0.5, 4: 0.25, 6: 0.75}, 0),
        ({2: None, 4: 0.25, 6: 0.25}, 1),
    ],
)
def test_evaluations_without_a_gain_are_counted_in_a_resumed_run_too(
    tmp_path, values, expected
):
    write_metrics(tmp_path, values)
    # Also if the checkpoint of the best one is not kept.
    for saved in (values, [6]):
        assert BestStep(AP, tmp_path, 9, saved).evaluations_since == expected
    found = BestStep(AP, tmp_path, 0, [])
    for step, value in values.items():
        found.add(step, {"val": {"AP": math.nan if value is None else value}})
    assert found.evaluations_since == expected


def test_the_line_about_an_early_stop_names_the_step_that_was_not_exceeded(tmp_path):
    # The run has no checkpoint of step 2, as it compared by another metric then.
    write_metrics(tmp_path, {2: 0.75, 4: 0.25})
    found = BestStep(AP, tmp_path, 4, [4])
    assert found.step == 4
    line = found.describe_stop(4, 1000)
    assert "AP on val has not risen in 1 evaluation since step 2; to" in line
    found.add(6, {"val": {"AP": 0.5}})
    assert found.step == 6
    assert found.describe_stop(6, 1000) == (
        "stopped early at step 6 of 1,000: AP on val has not risen in 2 evaluations "
        "since step 2; to continue, set stop_after to 0 or above 2"
    )


def test_stopping_early_needs_a_metric():
    with pytest.raises(InputError, match=r"^stop_after is 3, .* \(it is empty\): set"):
        make_criterion("", small, OFFERED, stop_after=3)
    with pytest.raises(InputError, match=r"\(val has no object to find\)"):
        make_criterion("auto", nothing, OFFERED, stop_after=3)
    assert make_criterion("AP", nothing, OFFERED, stop_after=3) == AP


def test_a_run_that_no_longer_chooses_removes_best_json(tmp_path):
    best.write(tmp_path, best.Best(4, "val", "AP", 0.5))
    found = BestStep(None, tmp_path, 6, [4, 6])
    assert not found.add(8, {})
    found.write()
    assert best.read(tmp_path) is None
