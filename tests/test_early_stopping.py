"""A run that stops early: when, what it leaves, and how it continues."""

import json

import pytest

from borrow_det import train
from borrow_det.workdir import best, checkpoints
from tests.planned_run import plan

pytestmark = pytest.mark.usefixtures("optax_promotes")

VALUES = {2: 0.25, 4: 0.5, 6: 0.5, 8: 0.375, 10: 0.625, 12: 0.125}


@pytest.fixture
def config(tiny_config):
    """Stops after two evaluations without a gain: at step 8."""
    tiny_config.num_steps = 12
    tiny_config.eval_every = 2
    tiny_config.log_every = tiny_config.checkpoint_every = 3
    tiny_config.keep_checkpoints = 1
    tiny_config.stop_after = 2
    tiny_config.report.curves = False
    return tiny_config


STOPPED = (
    "stopped early at step 8 of 12: AP_small on val has not risen in 2 evaluations "
    "since step 4; to continue, set stop_after to 0 or above 2"
)


def logged(folder, name):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["step"] for line in lines if name in line]


def test_a_run_without_gains_ends_as_if_finished_and_continues_when_asked(
    config, tmp_path, monkeypatch, capsys
):
    evaluated = plan(monkeypatch, VALUES)
    folder = tmp_path / "W"
    metrics = train.train_and_evaluate(config, folder)
    assert metrics["val"]["AP_small"] == VALUES[8]
    assert evaluated == [2, 4, 6, 8]
    assert STOPPED in capsys.readouterr().out.splitlines()
    assert checkpoints.complete_steps(folder) == [4, 8]
    assert best.read(folder).step == 4
    assert logged(folder, "loss") == [2, 3, 4, 6, 8]
    report = (folder / "report.md").read_text()
    assert "Best step: 4, AP_small 0.500 on val (last step: 0.375)" in report

    again = train.train_and_evaluate(config, folder)
    assert again == metrics
    assert evaluated == [2, 4, 6, 8]
    assert STOPPED in capsys.readouterr().out.splitlines()
    assert checkpoints.complete_steps(folder) == [4, 8]

    config.stop_after = 3
    train.train_and_evaluate(config, folder)
    assert evaluated == [2, 4, 6, 8, 10, 12]
    assert "stopped early" not in capsys.readouterr().out
    assert checkpoints.complete_steps(folder) == [10, 12]


def test_the_count_of_evaluations_survives_an_interruption(
    config, tmp_path, monkeypatch, stop_after
):
    evaluated = plan(monkeypatch, VALUES)
    folder = tmp_path / "W"
    with monkeypatch.context():
        stop_after(7)  # After the evaluation of step 6.
        with pytest.raises(stop_after.error):
            train.train_and_evaluate(config, folder)
    stop_after(99)
    train.train_and_evaluate(config, folder)
    assert evaluated == [2, 4, 6, 8]
    assert checkpoints.complete_steps(folder) == [4, 8]
