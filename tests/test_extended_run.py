"""A finished run that gets more steps: its schedule, also after an interruption."""

import json

import numpy as np
import pytest

from borrow_det import train
from borrow_det.errors import InputError
from borrow_det.workdir import metadata
from tests.planned_run import plan

pytestmark = pytest.mark.usefixtures("optax_promotes")


def rates(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["learning_rate"] for line in lines if "loss" in line]


def test_a_finished_run_is_extended_by_the_schedule_that_is_chosen(
    tiny_config, tmp_path, monkeypatch, stop_after, capsys
):
    config, folder = tiny_config, tmp_path / "W"
    config.log_every = 1
    config.report.curves = False
    config.optimizer.learning_rate = 0.008
    plan(monkeypatch, dict.fromkeys((4, 8, 12), 0.5))
    train.train_and_evaluate(config, folder)
    cosine = 0.004 * (1 + np.cos(np.pi * np.arange(4) / 4))
    np.testing.assert_allclose(rates(folder), cosine, rtol=1e-5)

    config.num_steps = 8
    stored = (folder / "config.json").read_text()
    with pytest.raises(InputError, match=r"restart, .* \(0\.008 at .* \(0\.004 "):
        train.train_and_evaluate(config, folder)
    assert (folder / "config.json").read_text() == stored

    config.schedule.extend = "restart"
    with monkeypatch.context():
        stop_after(3)
        with pytest.raises(stop_after.error):
            train.train_and_evaluate(config, folder)
    assert "extending the run by 4 steps to 8" in capsys.readouterr().out
    config.schedule.extend = ""
    stop_after(9)
    train.train_and_evaluate(config, folder)
    assert "extending" not in capsys.readouterr().out
    assert metadata.load_config(folder).schedule.restarts == (4,)
    np.testing.assert_allclose(rates(folder), [*cosine, *cosine], rtol=1e-5)

    config.num_steps, config.schedule.extend = 12, "continue"
    train.train_and_evaluate(config, folder)
    # From the fifth step of a cosine of eight.
    longer = 0.004 * (1 + np.cos(np.pi * np.arange(4, 8) / 8))
    np.testing.assert_allclose(rates(folder)[8:], longer, rtol=1e-5)
