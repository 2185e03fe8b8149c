"""Cross-validation by the ablation tool: commands, runs, and their common report."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from borrow_det import evaluate, train
from borrow_det.tools.ablate import __main__ as ablate
from borrow_det.tools.ablate import cells, sweeps
from borrow_det.tools.common import cli
from borrow_det.workdir import metadata

CONFIG = """
from tests import tiny_config

def get_config():
    config = tiny_config.get_config({folder!r})
    config.num_steps = config.eval_every = config.checkpoint_every = 2
    config.report.num_pictures = 0
    config.report.curves = False
    config.report.page_images = 0
    return config
"""
SWEEP = """
def sweep(add):
    add("full", {})
    add("weak", {"loss.matching": 0.01})
"""


@pytest.fixture(scope="module")
def files(scenes, tmp_path_factory):
    """(config file, sweep file)."""
    folder = tmp_path_factory.mktemp("folds")
    (folder / "config.py").write_text(CONFIG.format(folder=str(scenes)))
    (folder / "sweep.py").write_text(SWEEP)
    return folder / "config.py", folder / "sweep.py"


@pytest.fixture
def run(files, monkeypatch):
    """Function that runs the tool on a folder and returns its exit status."""

    def run(folder, *arguments):
        config, sweep = files
        argv = ["ablate", f"--config={config}", f"--sweep={sweep}"]
        argv += [f"--workdir={folder}", "--seeds=1", *arguments]
        # ml_collections looks here for the fields that are set.
        monkeypatch.setattr(sys, "argv", argv)
        return cli.call(ablate.main, argv)

    return run


@pytest.fixture(scope="module")
def trained(files, tmp_path_factory):
    """A sweep's folder in which both folds of the first row are finished."""
    folder = tmp_path_factory.mktemp("trained") / "W"
    namespace = {}
    exec(files[0].read_text(), namespace)
    base = namespace["get_config"]()
    base.dataset.folds = 2
    rows = sweeps.load(files[1], base)[:1]
    for cell in cells.make(rows, [0], folder, [], folds=2):
        with jax.numpy_dtype_promotion("standard"):
            train.train_and_evaluate(cell.config, cell.workdir)
        assert cells.is_finished(cell)
    return folder


def test_commands_name_the_fold_of_each_run(run, capsys, tmp_path):
    assert run(tmp_path / "W", "--folds=3", "--mode=commands") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition("/W/")[2] for line in lines] == [
        f"{row}/seed_0/fold_{fold}" for fold in range(3) for row in ("full", "weak")
    ]
    for fold in range(3):
        line = lines[2 * fold]
        assert f"--config.dataset.folds=3 --config.dataset.fold={fold} " in line


def test_folds_are_reported_together(trained, run, capsys, tmp_path):
    folder = tmp_path / "W"
    shutil.copytree(trained, folder)
    options = ("--folds=2", "--row=full", "--bootstrap=20", "--latency_rounds=0")
    assert run(folder, *options, "--mode=commands") == 0
    assert capsys.readouterr().out == ""  # Everything is finished.
    assert run(folder, *options, "--mode=report") == 0
    output = capsys.readouterr().out
    assert "Unfinished cells, not included: weak, seed 0, fold 0; weak, se" in output
    (record,) = json.loads((folder / "ablation.json").read_text())
    images = set()
    for fold in range(2):
        listed = json.loads(
            (folder / f"full/seed_0/fold_{fold}/folds.json").read_text()
        )
        images |= {n for of in listed["images"][fold].values() for n in of}
        path = folder / f"full/seed_0/fold_{fold}/evaluations/val/2.detections.json"
        found = {d["image_id"].split("/")[0] for d in json.loads(path.read_text())}
        assert found <= {"train", "val"}
    assert len(images) == 19
    pooled = json.loads((folder / "full/seed_0/pooled/val/2.json").read_text())
    for name in ("AP", "AP_small", "attention/objects", "attention/lift_same"):
        assert record["metrics"][name]["mean"] == pooled[name]
    of_folds = [
        evaluate.read_metrics(folder / f"full/seed_0/fold_{k}/evaluations/val/2.json")
        for k in range(2)
    ]
    counts = [of["attention/objects"] for of in of_folds]
    assert pooled["attention/objects"] == sum(counts)
    lifts = [of["attention/lift_same"] for of in of_folds]
    mean = np.average(lifts, weights=counts)
    assert pooled["attention/lift_same"] == pytest.approx(mean)


def test_without_one_of_its_folds_a_seed_is_not_reported(
    trained, run, capsys, tmp_path
):
    folder = tmp_path / "W"
    shutil.copytree(trained, folder)
    (folder / "full/seed_0/fold_1/report.md").unlink()
    options = ("--folds=2", "--row=full", "--latency_rounds=0")
    assert run(folder, *options, "--mode=commands") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("full/seed_0/fold_1")
    assert run(folder, *options, "--mode=report") == 2
    assert "no finished cell of this sweep, with all of its" in capsys.readouterr().err


def test_runs_with_and_without_folds_are_kept_apart(trained, run, capsys, tmp_path):
    folder = tmp_path / "W"
    shutil.copytree(trained, folder)
    options = ("--mode=report", "--latency_rounds=0")
    assert run(folder, *options) == 2
    assert "seed_0 has runs of folds (--folds): choose" in capsys.readouterr().err
    assert run(folder, "--folds=3", *options) == 2
    assert "was made with dataset.folds=2, but this sweep" in capsys.readouterr().err
    shutil.move(folder / "full/seed_0/fold_0", tmp_path / "run")
    shutil.rmtree(folder)
    shutil.move(tmp_path / "run", folder / "full/seed_0")
    assert run(folder, "--folds=2", *options) == 2
    assert "seed_0 has a run without folds: choose" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--folds=1",), "row 'full': dataset.folds is 1; it must be 0, or at least 2"),
        (
            ("--folds=2", "--config.dataset.eval_splits=('val','test')"),
            "row 'full': dataset.eval_splits is val, test: folds are evaluated as the",
        ),
        (
            ("--folds=2", "--config.dataset.name=voc"),
            "row 'full': dataset.folds is 2, and dataset.name is voc: folds are for",
        ),
        (("--against=other",), "--against"),
    ],
)
def test_folds_that_cannot_be_run_are_refused(
    arguments, message, run, capsys, tmp_path
):
    assert run(tmp_path / "W", *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_run_of_a_fold_is_evaluated_on_another_folder(trained, scenes, tmp_path):
    workdir = trained / "full/seed_0/fold_0"
    done = evaluate.evaluate_run(
        workdir, "val", path=scenes, output=tmp_path / "output"
    )
    assert len(done.evaluator.split) == 7  # The folder's own validation split.
    own = evaluate.evaluate_run(workdir, "val", output=tmp_path / "own")
    assert len(own.evaluator.split) == 9
    stored = evaluate.read_metrics(workdir / "evaluations/val/2.json")
    assert own.metrics["AR_100"] == stored["AR_100"]


@pytest.mark.slow
def test_a_sweep_with_folds_from_the_command_line(files, tmp_path):
    config, sweep = files
    folder = tmp_path / "W"
    process = subprocess.run(
        [
            *(sys.executable, "-m", "borrow_det.tools.ablate", f"--config={config}"),
            *(f"--sweep={sweep}", f"--workdir={folder}", "--folds=2", "--seeds=2"),
            *("--against=weak", "--jobs=2", "--latency_rounds=0", "--bootstrap=50"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert "2 rows, 2 seeds, 2 folds: 8 of 8 cells to run, 2 at once" in process.stdout
    full, weak = json.loads((folder / "ablation.json").read_text())
    assert (full["baseline"], weak["baseline"]) == ("weak", "weak")
    assert full["seed_numbers"] == [0, 1]
    assert full["metrics"]["AP"]["bootstrap"]["units"] == 19
    assert "vs. weak (95 % CI)" in (folder / "ablation.md").read_text()
    stored = metadata.load_config(folder / "full/seed_1/fold_1")
    assert (stored.seed, stored.dataset.folds, stored.dataset.fold) == (1, 2, 1)
    log = (folder / "full/seed_1/fold_1.log").read_text()
    assert "fold 1 of the folds 0 to 1 is evaluated, 10 of the 19 images" in log
