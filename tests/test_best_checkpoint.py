"""The best checkpoint of a run: kept, named, and the same after an interruption."""

import json
import math

import pytest

from borrow_det import evaluate, train
from borrow_det.errors import InputError
from borrow_det.inference.detector import Detector
from borrow_det.reporting.run_log import RunLog
from borrow_det.workdir import best, checkpoints, operating_points
from tests.planned_run import plan

pytestmark = pytest.mark.usefixtures("optax_promotes")

VALUES = {1: math.nan, 2: 0.25, 3: 0.5, 4: 0.125, 5: 0.5, 6: 0.375}


@pytest.fixture
def config(tiny_config):
    """Evaluates every step, and saves only every fourth and the last."""
    tiny_config.num_steps = 6
    tiny_config.eval_every = 1
    tiny_config.checkpoint_every = 4
    tiny_config.keep_checkpoints = 1
    tiny_config.report.curves = False
    return tiny_config


def test_the_best_checkpoint_is_saved_kept_and_named(
    config, tmp_path, monkeypatch, capsys
):
    plan(monkeypatch, VALUES)
    kept = []

    def keep(workdir, split, step):
        kept.append((split, step))
        return {"best_f1": {"score": 0.5, "precision": 1.0, "recall": 1.0, "f1": 1.0}}

    monkeypatch.setattr(evaluate, "keep_operating_points", keep)
    folder = tmp_path / "W"
    train.train_and_evaluate(config, folder)
    assert kept == [("val", 3), ("val", 6)]
    assert checkpoints.complete_steps(folder) == [3, 6]
    assert best.read(folder) == (3, "val", "AP_small", 0.5)
    out = capsys.readouterr().out
    assert "step 3, best_f1: score 0.500, precision 1.000, recall 1.000" in out
    said = [line for line in out.splitlines() if "best so far" in line]
    assert said == [
        "step 2 is the best so far: AP_small 0.2500 on val",
        "step 3 is the best so far: AP_small 0.5000 on val",
    ]
    line = (
        "Best step: 3, AP_small 0.500 on val (last step: 0.375). Tools load it "
        "with `--step=best`."
    )
    assert line in out
    assert line in (folder / "report.md").read_text()
    assert Detector.load(folder).step == 6
    assert Detector.load(folder, step="best").step == 3

    # Another metric chooses among the checkpoints that there are.
    config.checkpoint_best = "AP"
    train.train_and_evaluate(config, folder)
    assert best.read(folder) == (3, "val", "AP", 0.5)
    config.checkpoint_best = ""
    train.train_and_evaluate(config, folder)
    assert not (folder / "best.json").exists()
    assert "Best step" not in (folder / "report.md").read_text()


@pytest.mark.parametrize("moment", ["checkpoint", "best.json", "metrics.jsonl"])
def test_a_run_killed_while_it_keeps_the_best_ends_like_another(
    config, tmp_path, monkeypatch, moment
):
    folder = tmp_path / "W"

    class KilledError(Exception):
        pass

    def kill_at(*arguments):
        if best.read(folder) is None or best.read(folder).step != chosen:
            return original(*arguments)
        raise KilledError

    # The step that best.json names then. The last one is killed between the file of an
    # evaluation and its line, at a step that has a checkpoint.
    owner, name, chosen = {
        "checkpoint": (checkpoints.Checkpoints, "keep_best", 2),
        "best.json": (best, "write", 2),
        "metrics.jsonl": (RunLog, "evaluation", 3),
    }[moment]
    plan(monkeypatch, VALUES)
    original = getattr(owner, name)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, kill_at)
        with pytest.raises(KilledError):
            train.train_and_evaluate(config, folder)
    train.train_and_evaluate(config, folder)
    assert checkpoints.complete_steps(folder) == [3, 6]
    assert best.read(folder) == (3, "val", "AP_small", 0.5)
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    values = {x["step"]: x["val/AP_small"] for x in lines if "val/AP_small" in x}
    assert values == VALUES | {1: None}


def test_operating_points_of_a_former_run_are_not_taken_for_those_of_this(
    config, tmp_path, monkeypatch
):
    plan(monkeypatch, VALUES)
    folder = tmp_path / "W"
    folder.mkdir()
    point = {"score": 0.5, "precision": 1.0, "recall": 1.0, "f1": 1.0}

    def add(*steps):
        for step in steps:
            operating_points.add(folder, step, {"best_f1": point}, "val", 0.5)

    def steps():
        content = json.loads((folder / operating_points.FILE).read_text())
        return list(content["steps"])

    add(0, 3, 6)  # The former run's checkpoints were moved away.
    train.train_and_evaluate(config, folder)
    assert steps() == []
    add(3, 6, 8)  # The checkpoint of step 8 is lost.
    train.train_and_evaluate(config, folder)
    assert steps() == ["3", "6"]


def test_a_metric_that_is_not_measured_is_refused_before_anything_is_written(
    config, tmp_path
):
    config.checkpoint_best = "AP_tiny"
    with pytest.raises(InputError, match=r"checkpoint_best is 'AP_tiny'; .*AP50_small"):
        train.train_and_evaluate(config, tmp_path / "W")
    assert not (tmp_path / "W").exists()
