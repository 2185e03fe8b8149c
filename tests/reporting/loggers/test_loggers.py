"""Loggers, with stand-ins for their services."""

import json
import sys
import types

import numpy as np
import pytest

from borrow_det.errors import InputError
from borrow_det.reporting import loggers
from borrow_det.reporting.metric_writer import MetricWriter


class Recorded:
    """A logger that keeps what it gets, and fails at a step."""

    def __init__(self, workdir, run_id, settings, fails_at=None):
        self.run_id = run_id or f"{workdir.name}-1"
        self.settings, self.fails_at = dict(settings), fails_at
        self.got = []

    def write_scalars(self, step, scalars):
        if step == self.fails_at:
            raise ConnectionError("no\nanswer")
        self.got.append((step, dict(scalars)))

    def write_images(self, step, images):
        self.got.append((step, {tag: image.shape for tag, image in images.items()}))

    def close(self, finished):
        self.got.append(finished)


@pytest.fixture
def stand_in(monkeypatch):
    """Puts `Recorded` in the place of MLflow's run."""
    module = types.SimpleNamespace(Run=Recorded)
    monkeypatch.setitem(sys.modules, "borrow_det.reporting.loggers.mlflow_run", module)
    return module


def open_all(workdir, resumes=False, settings=None):
    lines = []
    opened = loggers.open_loggers(
        ("mlflow",), workdir, settings or {}, resumes, lines.append
    )
    return opened, lines


def test_a_logger_gets_the_finite_numbers_and_pictures_under_tensorboards_tags(
    tmp_path,
):
    logger = Recorded(tmp_path, None, {})
    writer = MetricWriter(tmp_path, 0, loggers.Loggers({"it": logger}, print))
    writer.write_scalars(
        3, {"loss": np.float32(0.5), "bad": np.nan}, lambda name: f"training/{name}"
    )
    picture = np.zeros((20, 2560, 3), np.uint8)
    writer.write_images(4, {f"evaluation/val/{i}": picture for i in range(8)})
    writer.close(finished=False)
    assert logger.got == [
        (3, {"training/loss": 0.5}),
        (4, {f"evaluation/val/{i}": (10, 1280, 3) for i in range(6)}),
        False,
    ]


def test_a_resumed_run_continues_the_run_of_the_logger(tmp_path, stand_in):
    open_all(tmp_path / "..", settings={"seed": 1})  # Another folder changes nothing.
    path = tmp_path / "loggers.json"
    path.write_text('{"wandb": "kept"}')
    open_all(tmp_path)
    assert json.loads(path.read_text()) == {
        "wandb": "kept",
        "mlflow": f"{tmp_path.name}-1",
    }
    path.write_text('{"mlflow": "earlier"}')
    opened, _ = open_all(tmp_path, resumes=True)
    assert [logger.run_id for logger in opened._opened.values()] == ["earlier"]
    # A run that starts anew, without a checkpoint, is another run.
    open_all(tmp_path)
    assert json.loads(path.read_text()) == {"mlflow": f"{tmp_path.name}-1"}


def test_a_logger_that_fails_is_reported_once_and_gets_nothing_more(tmp_path):
    lines = []
    fails, works = Recorded(tmp_path, None, {}, fails_at=2), Recorded(tmp_path, "b", {})
    both = loggers.Loggers({"wandb": fails, "mlflow": works}, lines.append)
    for step in (1, 2, 3):
        both.write_scalars(step, {"loss": 1.0})
    both.close(True)
    assert fails.got == [(1, {"loss": 1.0})]
    assert works.got == [(step, {"loss": 1.0}) for step in (1, 2, 3)] + [True]
    assert lines == [
        "wandb has failed and gets nothing more until the next start; metrics.jsonl "
        "has all metrics (ConnectionError: no answer)"
    ]


def test_a_logger_that_refuses_to_begin_ends_the_run_with_its_reason(
    tmp_path, stand_in
):
    def refuse(*_):
        raise RuntimeError("no\naccount")

    stand_in.Run = refuse
    with pytest.raises(InputError, match=r"^report\.loggers: mlflow .*: no account$"):
        open_all(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_absent_package_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install -r requirements-wandb\.txt"):
        loggers.check(("wandb",))
    loggers.check(())


def test_a_folder_of_the_name_of_a_package_is_none(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(InputError, match="wandb, which is not installed"):
        loggers.check(("wandb",))


def test_an_unknown_logger_is_an_error():
    with pytest.raises(InputError, match=r"report\.loggers is 'tensorbord'"):
        loggers.check(("tensorbord",))
