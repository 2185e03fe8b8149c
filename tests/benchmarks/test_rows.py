"""Rows of a benchmark: ratios of times, failures, selection and budget."""

import io
import json
import time

import pytest

from benchmarks import rows


def lines(file):
    return [json.loads(line) for line in file.getvalue().splitlines()]


def sleeper(seconds, result=None):
    def call():
        time.sleep(seconds)
        return result

    return lambda: call


def test_ratios_are_times_over_those_of_the_base():
    makers = {"ours": sleeper(0.01), "theirs": sleeper(0.04)}
    figures = rows.compare(makers, 3)
    low, median, high = figures["over_ours"]["theirs"]
    assert low <= median <= high
    assert median > 1
    assert figures["ms"]["theirs"] > figures["ms"]["ours"]
    assert figures["rounds"] == 3
    reversed_ = rows.compare(makers, 3, base="theirs")
    assert reversed_["over_theirs"]["ours"][1] < 1


def test_slow_calls_are_timed_less_often():
    makers = {"ours": sleeper(0.02)}
    assert rows.compare(makers, 50, seconds=0.1)["rounds"] in (3, 4, 5)
    assert rows.compare(makers, 50, seconds=0.0)["rounds"] == 3
    assert rows.compare(makers, 2, seconds=0.0)["rounds"] == 2


def test_a_call_that_fails_is_omitted_and_its_error_reported():
    def no_program():
        raise ValueError("no\nprogram")

    def no_call():
        return no_program

    makers = {"ours": sleeper(0), "made": no_program, "called": no_call}
    figures = rows.compare(makers, 2)
    assert figures["ms"].keys() == {"ours"}
    error = "ValueError: no program"
    assert figures["without"] == {"made": error, "called": error}


def test_results_of_calls_are_passed_to_the_check():
    makers = {"ours": sleeper(0, result=2), "theirs": sleeper(0, result=3)}
    figures = rows.compare(makers, 1, check=lambda found: {"sum": sum(found.values())})
    assert figures["sum"] == 5

    figures = rows.compare(makers, 1, check=lambda found: {"sum": found["absent"]})
    assert figures["check"] == "KeyError: 'absent'"
    assert figures["ms"].keys() == {"ours", "theirs"}


def test_the_next_row_is_measured_after_a_row_that_fails(capsys):
    file = io.StringIO()
    table = rows.RowWriter(file, [], budget=0)
    table.measure("a", lambda: 1 / 0)
    table.measure("b", lambda: {"ms": {"ours": 1.0}})
    expected = [
        {"row": "a", "failed": "ZeroDivisionError: division by zero"},
        {"row": "b", "ms": {"ours": 1.0}},
    ]
    assert lines(file) == expected
    printed = capsys.readouterr()
    assert [json.loads(line) for line in printed.out.splitlines()] == expected
    assert "b" in printed.err
    assert "ours 1 ms" in printed.err


def test_patterns_select_rows():
    file = io.StringIO()
    table = rows.RowWriter(file, ["train/*", "nms"], budget=0)
    for name in ("train/b1", "detect/b1", "nms", "nms/b1"):
        table.measure(name, dict)
    assert [line["row"] for line in lines(file)] == ["train/b1", "nms"]


def test_no_row_starts_when_the_budget_is_used_up():
    file = io.StringIO()
    table = rows.RowWriter(file, [], budget=1e-9)
    assert table.over
    table.measure("a", lambda: pytest.fail("the row was measured"))
    assert lines(file) == [{"row": "a", "failed": "--budget was used up"}]


def test_a_table_line_has_times_and_ratios():
    record = {
        "row": "a",
        "ms": {"plain": 2.0, "borrow": 3.0},
        "over_plain": {"borrow": [1.4, 1.5, 1.6]},
        "rounds": 3,
    }
    line = rows.table_line(record)
    assert "plain 2 ms" in line
    assert "borrow 3 ms = 1.50 x plain (1.40-1.60)" in line
    assert "rounds 3" in line
