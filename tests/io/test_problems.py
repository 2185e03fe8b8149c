"""Summaries of problems."""

import json

import pytest

from borrow_det.errors import InputError
from borrow_det.io.problems import Problem, Problems


def test_very_long_parts_of_a_problem_are_shortened_in_messages_only(tmp_path):
    problem = Problem("wrong flag", "a.json", "images[0]", "x" * 251 + "y" * 5000)
    assert str(problem) == f"a.json: images[0]: {'x' * 250} … {'y' * 250}"
    assert str(Problem("k", "a.json", "", "is wrong")) == "a.json: is wrong"
    report = tmp_path / "problems.json"
    with pytest.raises(InputError, match="wrong flag") as error:
        Problems([problem, problem]).refuse(report, "Correct it")
    assert len(str(error.value)) < 2000
    reasons = [p["reason"] for p in json.loads(report.read_text())["problems"]]
    assert reasons == [problem.reason] * 2


def test_a_summary_quotes_the_path_of_a_file_once_per_kind():
    problems = Problems()
    for index in range(5):
        problems.add("wrong flag", "a.json", f"images[{index}]", "is odd")
    problems.add("wrong flag", "b.json", "images[0]", "is odd")
    problems.add("damaged image", "c.png", "", "the file is cut")
    problems.add("damaged image", "c.png", "", "the file is odd")
    assert problems.summary() == (
        "wrong flag (6): a.json: images[0]: is odd; images[1]: is odd; images[2]: is "
        "odd; and 3 more. damaged image (2): c.png: the file is cut; c.png: the file "
        "is odd"
    )
