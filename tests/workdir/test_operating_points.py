"""Operating points are stored once for each step and name."""

import json

import pytest

from borrow_det.errors import InputError
from borrow_det.inference import minimum_score
from borrow_det.workdir import operating_points

POINT = {"score": 0.25, "precision": 0.5, "recall": 0.75, "f1": 0.6}
OTHER = {**POINT, "score": 0.75}


def test_a_stored_point_is_never_changed(tmp_path):
    add = operating_points.add
    assert add(tmp_path, 10, {"best_f1": POINT}, "val", 0.5) == ["best_f1"]
    assert add(tmp_path, 10, {"best_f1": OTHER}, "test", 0.5) == []
    points = {"best_f1": OTHER, "precision_0.9": OTHER, "recall_1": None}
    assert add(tmp_path, 10, points, "test", 0.5) == ["precision_0.9"]
    assert add(tmp_path, 9, {"best_f1": OTHER}, "val", 0.5) == ["best_f1"]
    assert json.loads((tmp_path / "operating_points.json").read_text()) == {
        "metric_iou": 0.5,
        "steps": {
            "9": {"best_f1": {**OTHER, "split": "val"}},
            "10": {
                "best_f1": {**POINT, "split": "val"},
                "precision_0.9": {**OTHER, "split": "test"},
            },
        },
    }
    assert operating_points.load(tmp_path, 10, "val").points["best_f1"]["score"] == 0.25
    assert operating_points.load(tmp_path, 11, "val").points == {}


def test_a_run_drops_the_points_of_steps_that_it_does_again(tmp_path):
    operating_points.drop_from(tmp_path, 0)
    assert not list(tmp_path.iterdir())
    for step in (0, 8, 10):
        operating_points.add(tmp_path, step, {"best_f1": POINT}, "val", 0.5)
    content = (tmp_path / "operating_points.json").read_text()
    operating_points.drop_from(tmp_path, 11)
    operating_points.drop_from(tmp_path, 0, write=False)
    assert (tmp_path / "operating_points.json").read_text() == content
    operating_points.drop_from(tmp_path, 9)
    points = {"best_f1": {**POINT, "split": "val"}}
    assert json.loads((tmp_path / "operating_points.json").read_text()) == {
        "metric_iou": 0.5,
        "steps": {"0": points, "8": points},
    }
    operating_points.drop_from(tmp_path, 0)
    assert operating_points.load(tmp_path, 0, "val").points == {}


def test_without_points_there_is_no_file(tmp_path):
    assert operating_points.add(tmp_path, 1, {"best_f1": None}, "val", 0.5) == []
    assert not list(tmp_path.iterdir())
    assert operating_points.load(tmp_path, 1, "val").points == {}


@pytest.mark.parametrize("content", ["[]", "{}", '{"steps": {"last": {}}}'])
def test_a_file_of_another_form_is_refused(tmp_path, content):
    (tmp_path / "operating_points.json").write_text(content)
    with pytest.raises(InputError, match=r"operating_points\.json"):
        operating_points.load(tmp_path, 1, "val")


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("best_f1", ""),
        ("precision_0.9", " --precision=0.9"),
        ("recall_1", " --recall=1"),
    ],
)
def test_the_message_for_an_absent_point_has_the_command(tmp_path, name, more):
    known = operating_points.load(tmp_path, 7, "val")
    with pytest.raises(InputError) as error:
        minimum_score.look_up(name, known)
    command = f"`borrow-det evaluate --workdir={tmp_path} --split=val --step=7{more}`"
    assert f"no operating point {name} of step 7: run {command}" in str(error.value)


def test_a_flag_is_a_number_or_the_name_of_a_point():
    assert minimum_score.parse("0.5", "--score") == 0.5
    assert minimum_score.parse("recall_0.95", "--score") == "recall_0.95"
    for text in ("2", "nan", "-0.1"):
        with pytest.raises(InputError, match=f"--score={text} is not a number from 0"):
            minimum_score.parse(text, "--score")
    with pytest.raises(InputError, match="--score=best is neither a number"):
        minimum_score.parse("best", "--score")
