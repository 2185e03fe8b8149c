"""Loggers with the real packages, without a network."""

import json
import os

import jax
import numpy as np
import pytest

from borrow_det import train
from borrow_det.io import paths
from borrow_det.reporting import loggers

pytestmark = pytest.mark.extras


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Keeps everything that the loggers write below the test's folder."""
    for name in list(os.environ):
        if name.startswith(("WANDB_", "MLFLOW_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    yield
    monkeypatch.undo()


def wandb_records(workdir):
    """Yields the records of the offline runs of a work directory, oldest first.

    Their files are LevelDB's logs of protocol buffers: blocks of 32 KiB, of parts with
    a checksum, a length, and a type (1: whole, 2: first, 3: middle, 4: last).
    """
    from wandb.proto import wandb_internal_pb2

    for path in sorted((workdir / "wandb").glob("offline-run-*/run-*.wandb")):
        content, position, record = path.read_bytes(), 7, b""
        while position + 7 <= len(content):
            left = 32768 - position % 32768
            if left < 7:
                position += left
                continue
            size = int.from_bytes(content[position + 4 : position + 6], "little")
            kind = content[position + 6]
            record += content[position + 7 : position + 7 + size]
            position += 7 + size
            if kind in (1, 4):
                yield wandb_internal_pb2.Record.FromString(record)
                record = b""


def wandb_history(records):
    """Returns the logged values, by name."""
    return [
        {
            item.key or "/".join(item.nested_key): json.loads(item.value_json)
            for item in record.history.item
        }
        for record in records
        if record.HasField("history")
    ]


def open_logger(name, workdir, resumes=False, seed=1):
    return loggers.open_loggers(
        (name,),
        paths.as_path(workdir),
        {"seed": seed, "empty": ""},
        resumes,
        pytest.fail,
    )


def test_wandb_continues_an_offline_run_with_metrics_config_and_pictures(
    tmp_path, offline
):
    first = open_logger("wandb", tmp_path)
    first.write_scalars(2, {"training/loss": 0.5})
    first.write_images(2, {"evaluation/val/0": np.full((4, 6, 3), 9, np.uint8)})
    first.close(finished=False)
    second = open_logger("wandb", tmp_path, resumes=True, seed=2)
    second.write_scalars(2, {"training/loss": 0.5})  # Repeated by the resumed run.
    second.write_scalars(4, {"training/loss": 0.25})
    second.close(finished=True)

    run_id = json.loads((tmp_path / "loggers.json").read_text())["wandb"]
    records = list(wandb_records(tmp_path))
    runs = [record.run for record in records if record.HasField("run")]
    assert {run.run_id for run in runs} == {run_id}
    assert {(run.project, run.display_name) for run in runs[:1]} == {
        ("borrow_det", tmp_path.name)
    }
    logged = [
        (line["step"], line["training/loss"])
        for line in wandb_history(records)
        if "training/loss" in line
    ]
    assert logged == [(2, 0.5), (2, 0.5), (4, 0.25)]
    size = [f"evaluation/val/0/{side}" for side in ("width", "height")]
    pictures = [line for line in wandb_history(records) if size[0] in line]
    assert [[line[name] for name in size] for line in pictures] == [[6, 4]]
    assert len(list(tmp_path.glob("wandb/offline-*/files/media/images/**/*.jpg"))) == 1
    settings = [
        (update.key, json.loads(update.value_json))
        for record in records
        for update in record.config.update
    ]
    assert [value for key, value in settings if key == "seed"] == [1, 2]
    exits = [r.exit.exit_code for r in records if r.HasField("exit")]
    assert exits == [1, 0]


def test_mlflow_continues_a_local_run_with_metrics_parameters_and_pictures(
    tmp_path, offline
):
    import mlflow

    client = mlflow.MlflowClient()
    first = open_logger("mlflow", tmp_path)
    first.write_scalars(2, {"evaluation/val/AP/car (a\\b)//..": 0.5})
    first.write_images(2, {"evaluation/val/0": np.full((4, 6, 3), 9, np.uint8)})
    first.close(finished=False)
    run_id = json.loads((tmp_path / "loggers.json").read_text())["mlflow"]
    assert client.get_run(run_id).info.status == "KILLED"
    second = open_logger("mlflow", tmp_path, resumes=True, seed=2)
    second.write_scalars(4, {f"evaluation/val/AP/class {i}": 0.5 for i in range(1500)})
    assert client.get_run(run_id).info.status == "RUNNING"
    second.close(finished=True)

    (experiment,) = client.search_experiments(filter_string="name = 'borrow_det'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_id, run.info.run_name) == (run_id, tmp_path.name)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "1", "empty": ""}
    assert len(run.data.metrics) == 1501
    (entry,) = client.get_metric_history(run_id, "evaluation/val/AP/car _a_b_/_/_")
    assert (entry.step, entry.value) == (2, 0.5)
    (picture,) = client.list_artifacts(run_id, "evaluation/val/0")
    assert picture.path == "evaluation/val/0/2.jpg"


def test_an_interrupted_training_continues_in_both_loggers(
    tmp_path, offline, tiny_config, stop_after
):
    import mlflow

    tiny_config.report.loggers = ("wandb", "mlflow")
    workdir = tmp_path / "W"
    with jax.numpy_dtype_promotion("standard"):
        stop_after(3)
        with pytest.raises(stop_after.error):
            train.train_and_evaluate(tiny_config, workdir)
        before = json.loads((workdir / "loggers.json").read_text())
        stop_after(9)
        train.train_and_evaluate(tiny_config, workdir)
    assert json.loads((workdir / "loggers.json").read_text()) == before

    lines = [
        json.loads(line)
        for line in (workdir / "metrics.jsonl").read_text().splitlines()
    ]
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    assert [step for step, _ in losses] == [2, 4]
    client = mlflow.MlflowClient()
    history = client.get_metric_history(before["mlflow"], "training/loss")
    assert [(entry.step, entry.value) for entry in history] == losses
    run = client.get_run(before["mlflow"])
    assert run.info.status == "FINISHED"
    assert run.data.params["dataset.eval_splits"] == "('val',)"
    (ap,) = [line["val/AP"] for line in lines if "val/AP" in line]
    assert run.data.metrics["evaluation/val/AP"] == ap
    logged = wandb_history(wandb_records(workdir))
    assert [
        (line["step"], line["training/loss"])
        for line in logged
        if "training/loss" in line
    ] == losses
    assert [line["evaluation/val/AP"] for line in logged if "evaluation/val/AP" in line]
    assert len(list(workdir.glob("wandb/offline-*/files/media/images/**/*.jpg"))) == 2
