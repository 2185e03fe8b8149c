import io
import json
import time

import pytest

from benchmarks import rows


def lines(file):
    return [json.loads(line) for line in file.getvalue().splitlines()]


def sleeper(seconds, said=None):
    def call():
        time.sleep(seconds)
        return said

    return lambda: call


def test_ratios_are_of_the_others_over_the_base():
    makers = {"ours": sleeper(0.01), "theirs": sleeper(0.04)}
    figures = rows.compare(makers, 3)
    low, median, high = figures["over_ours"]["theirs"]
    assert low <= median <= high
    assert median > 1
    assert figures["ms"]["theirs"] > figures["ms"]["ours"]
    assert figures["rounds"] == 3
    turned = rows.compare(makers, 3, base="theirs")
    assert turned["over_theirs"]["ours"][1] < 1


def test_slow_calls_are_timed_less_often():
    makers = {"ours": sleeper(0.02)}
    assert rows.compare(makers, 50, seconds=0.1)["rounds"] in (3, 4, 5)
    assert rows.compare(makers, 50, seconds=0.0)["rounds"] == 3
    assert rows.compare(makers, 2, seconds=0.0)["rounds"] == 2


def test_who_fails_is_left_out_and_told_of():
    def no_program():
        raise ValueError("no\nprogram")

    def no_call():
        return no_program

    makers = {"ours": sleeper(0), "made": no_program, "called": no_call}
    figures = rows.compare(makers, 2)
    assert figures["ms"].keys() == {"ours"}
    error = "ValueError: no program"
    assert figures["without"] == {"made": error, "called": error}


def test_what_calls_return_is_checked():
    makers = {"ours": sleeper(0, said=2), "theirs": sleeper(0, said=3)}
    figures = rows.compare(makers, 1, check=lambda said: {"sum": sum(said.values())})
    assert figures["sum"] == 5

    figures = rows.compare(makers, 1, check=lambda said: {"sum": said["nobody"]})
    assert figures["check"] == "KeyError: 'nobody'"
    assert figures["ms"].keys() == {"ours", "theirs"}


def test_a_row_that_fails_does_not_stop_the_next_one(capsys):
    file = io.StringIO()
    table = rows.Rows(file, [], budget=0)
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


def test_patterns_choose_rows():
    file = io.StringIO()
    table = rows.Rows(file, ["train/*", "nms"], budget=0)
    for name in ("train/b1", "detect/b1", "nms", "nms/b1"):
        table.measure(name, dict)
    assert [line["row"] for line in lines(file)] == ["train/b1", "nms"]


def test_no_row_begins_when_the_budget_is_over():
    file = io.StringIO()
    table = rows.Rows(file, [], budget=1e-9)
    assert table.over
    table.measure("a", lambda: pytest.fail("it was begun"))
    assert lines(file) == [{"row": "a", "failed": "--budget was over"}]


def test_a_line_of_the_table_has_each_ratio():
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
