"""The ablation tool on real runs of a few seconds, each a separate process."""

import fcntl
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time
import types

import jax
import pytest
from absl import flags
from ml_collections import config_flags

from borrow_det.config import command_line
from borrow_det.configs import base
from borrow_det.errors import InputError
from borrow_det.tools.ablate import __main__ as ablate
from borrow_det.tools.ablate import cells, sweeps
from borrow_det.tools.common import cli
from borrow_det.workdir import metadata

CONFIG = """
import json
from borrow_det.workdir.metadata import as_stored
from borrow_det.configs import base
from borrow_det.errors import InputError

def get_config():
    config = base.get_config()
    config.update(as_stored(json.loads({fields!r})))
    return config
"""
SWEEP = """
def sweep(add):
    ssd = {"borrow.enabled": False, "borrow.context": False, "loss.matching": 0.0}
    add("ssd", ssd)
    add("full, wide", {"borrow.value_channels": 12, "anchors.variances": (0.1, 0.25)})
    add("broken", {"init_from": "nowhere"})
"""
OVERRIDE = "--config.optimizer.b1=0.8"


@pytest.fixture(scope="module")
def files(make_tiny_config, tmp_path_factory):
    """(config file, sweep file)."""
    folder = tmp_path_factory.mktemp("ablate")
    config = make_tiny_config()
    config.num_steps = config.eval_every = config.checkpoint_every = 2
    config.report.num_pictures = 0
    config.report.curves = False
    text = CONFIG.format(fields=json.dumps(config.to_dict()))
    (folder / "config.py").write_text(text)
    (folder / "sweep.py").write_text(SWEEP)
    return folder / "config.py", folder / "sweep.py"


@pytest.fixture
def run(files, monkeypatch):
    """Function that runs the tool and returns its exit status."""

    def run(*arguments):
        config, sweep = files
        argv = ["ablate", f"--config={config}", f"--sweep={sweep}", *arguments]
        # ml_collections looks here for the fields that are set.
        monkeypatch.setattr(sys, "argv", argv)
        return cli.call(ablate.main, argv)

    return run


@pytest.fixture(scope="module")
def swept(files, tmp_path_factory):
    """(folder, output) of the complete sweep with one seed, run as a command."""
    config, sweep = files
    folder = tmp_path_factory.mktemp("swept") / "W"
    process = subprocess.run(
        [
            *(sys.executable, "-m", "borrow_det.tools.ablate", f"--config={config}"),
            *(OVERRIDE, f"--sweep={sweep}", f"--workdir={folder}"),
            *("--seeds=1", "--first_seed=3", "--jobs=2", "--latency_rounds=3"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1, process.stderr  # One row is broken.
    return folder, process.stdout


def test_a_sweep_reports_its_finished_cells_and_names_the_others(swept):
    folder, output = swept
    assert "3 rows, 1 seeds: 3 of 3 cells to run, 2 at once" in output
    assert "broken, seed 3: failed with status 2: error: init_from" in output
    assert "Unfinished cells, not included: broken, seed 3." in output
    text = (folder / "ablation.json").read_text()
    records = json.loads(text)
    # One line per record, between those of the brackets.
    assert text.count("\n") == len(records) + 2
    assert [record["name"] for record in records] == ["ssd", "full, wide"]
    for record, row in zip(records, ("ssd", "full_wide"), strict=True):
        cell = folder / row / "seed_3"
        stored = metadata.load_config(cell)
        assert (stored.seed, stored.optimizer.b1) == (3, 0.8)
        metrics = json.loads((cell / "evaluations/val/2.json").read_text())
        for name, value in metrics.items():
            if name != "step" and not name.startswith(("AP/", "AP50/")):
                assert record["metrics"][name]["mean"] == value
        cost = record["cost"]
        count = (cell / "parameters.txt").read_text().split("Total: ")[1].split()[0]
        assert cost["parameters"] == float(count.replace(",", ""))
        assert cost["latency_ms"] > 0
    assert records[0]["cost"]["latency_ratio"] == 1
    assert records[1]["cost"]["flops"] > records[0]["cost"]["flops"]
    assert (folder / "ablation.png").stat().st_size > 5_000
    assert (folder / "ablation.csv").read_text().startswith("name,dataset,split,seeds,")
    table = (folder / "ablation.md").read_text()
    assert table.strip() in output
    assert "broken |" not in table


def test_a_cell_is_finished_when_report_checkpoint_and_evaluations_exist(
    swept, tmp_path
):
    folder = tmp_path / "W"
    shutil.copytree(swept[0], folder)
    config = metadata.load_config(folder / "ssd/seed_3")
    cell = cells.Cell(None, 3, config, folder / "ssd/seed_3", ())
    assert cells.is_finished(cell)
    for path in ("report.md", "checkpoints/2", "evaluations/val/2.json"):
        (cell.workdir / path).rename(tmp_path / "aside")
        assert not cells.is_finished(cell)
        (tmp_path / "aside").rename(cell.workdir / path)
    assert cells.is_finished(cell)


def test_without_a_finished_baseline_there_are_no_differences(
    swept, run, capsys, tmp_path
):
    folder = tmp_path / "W"
    shutil.copytree(swept[0], folder)
    (folder / "ssd/seed_3/report.md").unlink()
    options = (OVERRIDE, f"--workdir={folder}", "--seeds=1", "--first_seed=3")
    assert run(*options, "--mode=report", "--latency_rounds=2") == 0
    assert "No run of the baseline, ssd, is finished" in capsys.readouterr().out
    (record,) = json.loads((folder / "ablation.json").read_text())
    assert (record["name"], record["baseline"]) == ("full, wide", "ssd")
    assert "latency_ratio" not in record["cost"]
    assert record["metrics"]["AP"]["difference"]["pairs"] == 0


def test_former_names_of_metrics_are_read_as_the_present_ones(swept, run, tmp_path):
    folder = tmp_path / "W"
    shutil.copytree(swept[0], folder)
    for row in ("ssd", "full_wide"):
        path = folder / row / "seed_3/evaluations/val/2.json"
        content = json.loads(path.read_text()) | {"AP_small_with_source": 0.25}
        content.pop("AP_small_with_lender", None)
        path.write_text(json.dumps(content))
    options = (OVERRIDE, f"--workdir={folder}", "--seeds=1", "--first_seed=3")
    options += ("--mode=report", "--latency_rounds=0")
    assert run(*options, "--metrics=AP_small_with_source") == 0
    records = json.loads((folder / "ablation.json").read_text())
    for record in records:
        assert record["metrics"]["AP_small_with_lender"]["mean"] == 0.25
    assert "| AP_small_with_lender |" in (folder / "ablation.md").read_text()


def test_a_cell_that_another_process_runs_is_not_started(swept, tmp_path):
    folder = tmp_path / "W"
    shutil.copytree(swept[0], folder)
    cell = cells.Cell(None, 3, None, folder / "ssd/seed_3", (sys.executable, "-c", ""))
    with cells.Jobs(1, dict(os.environ)) as jobs, cell.log.open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        outcome = jobs.submit(cell).result()
    assert not outcome.finished
    assert "failed: another process runs this cell" in outcome.text


def test_a_cell_that_another_process_has_finished_is_not_started(swept, tmp_path):
    folder = tmp_path / "W"
    shutil.copytree(swept[0], folder)
    path = folder / "ssd/seed_3"
    program = (sys.executable, "-c", "raise SystemExit(1)")
    cell = cells.Cell(None, 3, metadata.load_config(path), path, program)
    with cells.Jobs(1, dict(os.environ)) as jobs:
        assert jobs.submit(cell).result() == (True, "finished by another process", 0.0)


def test_times_are_read_from_the_last_complete_records(swept, tmp_path):
    rows = [types.SimpleNamespace(name=name) for name in "ab"]
    every = [cells.Cell(row, 0, None, tmp_path, ()) for row in rows]
    lines = [
        {"row": row, "seed": 0, "seconds": seconds}
        for row, seconds in (("a", 3.0), ("a", 5.0), ("other", 9.0))
    ]
    text = "\n".join(map(json.dumps, lines)) + '\n{"row": "b", "se'
    (tmp_path / cells.TIMES).write_text(text)
    assert cells.times(tmp_path, every) == [5.0]


def test_a_resumed_run_has_no_time(swept, tmp_path):
    folder = tmp_path / "W"
    shutil.copytree(swept[0], folder)
    path = folder / "ssd/seed_3"
    report = (path / "report.md").rename(tmp_path / "report.md")
    program = ("mv", str(report), str(path / "report.md"))
    cell = cells.Cell(None, 3, metadata.load_config(path), path, program)
    with cells.Jobs(1, dict(os.environ)) as jobs:
        outcome = jobs.submit(cell).result()
    assert outcome.finished
    assert outcome.seconds == 0  # The process resumed an earlier one.


def test_selected_rows_are_run_and_all_rows_reported(swept, run, capsys, tmp_path):
    folder = tmp_path / "W"
    shutil.copytree(swept[0], folder)
    (folder / "full_wide/seed_3/report.md").unlink()
    options = (OVERRIDE, f"--workdir={folder}", "--seeds=1", "--first_seed=3")
    options += ("--row=broken", "--latency_rounds=0")
    assert run(*options, "--mode=commands") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("broken/seed_3")
    (folder / "full_wide/seed_3/report.md").touch()
    assert run(*options) == 1
    assert "2 rows, 1 seeds: 1 of 2 cells to run" in capsys.readouterr().out
    records = json.loads((folder / "ablation.json").read_text())
    assert [record["name"] for record in records] == ["ssd", "full, wide"]


# Jobs, processors, GPUs; then each job's processors, GPUs and share of their memory.
SHARES = [
    (1, "0 1 2 3", "", ["0 1 2 3", None, None]),
    (2, "0 1 2", "", ["0 2", None, None], ["1", None, None]),
    (3, "4 5", "", ["4", None, None], ["5", None, None], ["4", None, None]),
    (1, "0 1", "0 1", ["0 1", None, None]),
    (2, "0 1", "0 1 3", ["0", "0,3", None], ["1", "1", None]),
    (
        *(3, "0 1 2", "5 6"),
        *([str(core), gpu, "0.450"] for core, gpu in enumerate("565")),
    ),
]


@pytest.mark.parametrize("case", SHARES)
def test_processors_and_gpus_are_divided_among_jobs(case):
    jobs, cores, gpus, *expected = case
    found = [
        [
            " ".join(map(str, sorted(share.cores))),
            share.environment.get("CUDA_VISIBLE_DEVICES"),
            share.environment.get("XLA_PYTHON_CLIENT_MEM_FRACTION"),
        ]
        for share in cells.shares(jobs, [int(c) for c in cores.split()], gpus.split())
    ]
    assert found == expected


def test_a_second_start_runs_only_unfinished_cells(swept, run, capsys, tmp_path):
    folder = tmp_path / "W"
    shutil.copytree(swept[0], folder)
    options = (OVERRIDE, f"--workdir={folder}", "--latency_rounds=0")
    evaluation = folder / "full_wide/seed_3/evaluations/val/2.json"
    before = json.loads(evaluation.read_text())
    evaluation.unlink()
    assert run(*options, "--seeds=1", "--first_seed=3", "--mode=commands") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rsplit("=", 1)[1] for line in lines] == [
        str(folder / row / "seed_3") for row in ("full_wide", "broken")
    ]
    # Run a cell by its command, as a Slurm array does.
    program, *arguments = shlex.split(lines[0])
    assert program == "python"
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    assert json.loads(evaluation.read_text()) == before
    assert run(*options, "--seeds=1", "--first_seed=3", "--mode=report") == 0


def test_a_sweep_whose_runs_all_fail_has_the_status_of_failed_runs(
    run, capsys, tmp_path
):
    fields = "--config.init_from=nowhere"
    options = (f"--workdir={tmp_path / 'W'}", "--seeds=1", "--row=broken", "--jobs=2")
    assert run(*options, fields) == 1
    assert "no finished cell" not in capsys.readouterr().err
    assert run(*options, fields, "--mode=report") == 2


def test_cells_of_another_config_are_refused(swept, run, capsys):
    folder, _ = swept
    options = (f"--workdir={folder}", "--seeds=1", "--first_seed=3", "--mode=report")
    assert run(*options) == 2
    error = capsys.readouterr().err
    assert "made with optimizer.b1=0.8, but this sweep has 0.9" in error
    # Fields that do not affect the results may differ.
    assert run(*options, OVERRIDE, "--config.log_every=7", "--latency_rounds=0") == 0
    # With another split all cells are unfinished: a start evaluates them on it.
    capsys.readouterr()
    splits = "--config.dataset.eval_splits=('val','train')"
    assert run(*options, OVERRIDE, splits, "--mode=commands") == 0
    assert capsys.readouterr().out.count("seed_3") == 3
    assert run(*options, OVERRIDE, "--first_seed=4") == 2
    assert "holds no finished cell of this sweep" in capsys.readouterr().err


def test_commands_give_each_cell_its_config(files, monkeypatch, tmp_path):
    config, _ = files
    argv = ["main", f"--config={config}", "--config.dataset.eval_splits=('val','val')"]

    def parsed(arguments):
        values = flags.FlagValues()
        config_flags.DEFINE_config_file("config", flag_values=values)
        flags.DEFINE_string("workdir", None, "", flag_values=values)
        monkeypatch.setattr(sys, "argv", arguments)
        command_line.parse(values, arguments)
        return command_line.resolved(values["config"]), values.workdir

    path = tmp_path / "sweep.py"
    path.write_text(
        "def sweep(add):\n"
        '  add("a", {"anchors.aspect_ratios": ((1.0, 0.5), (2.0,), (1.0,), (1.0,)),\n'
        '            "borrow.levels": (0,), "borrow.from_levels": (),\n'
        '            "init_from": "a b\'s", "optimizer.learning_rate": 1e-05,\n'
        '            "dataset.eval_splits": ("val[:2]",), "borrow.center": False})\n'
    )
    (row,) = sweeps.load(path, parsed(argv)[0])
    (cell,) = cells.make([row], [7], tmp_path / "my W", argv[1:])
    assert cell.command[1:3] == ("-m", "borrow_det.main")
    config, folder = parsed(["main", *shlex.split(shlex.join(cell.command[3:]))])
    assert config.to_dict() == cell.config.to_dict()
    assert config.seed == 7
    assert folder == str(cell.workdir) == str(tmp_path / "my W/a/seed_7")


@pytest.mark.parametrize(
    ("starts", "fits"),
    [
        ([["borrow_det.train"], ["borrow_det.train", None]], True),
        ([["benchmarks.stored_maps"], ["benchmarks.stored_maps"]], True),
        ([["borrow_det.train"], ["benchmarks.stored_maps"]], False),
        # The second start of the second run was another program's.
        ([[None], ["borrow_det.train", "benchmarks.stored_maps"]], False),
    ],
)
def test_runs_of_different_programs_are_not_compared(tmp_path, starts, fits):
    row = sweeps.SweepRow("a", {}, base.get_config())
    made = cells.make([row], [0, 1], tmp_path, [], main="my.program")
    assert made[0].command[1:3] == ("-m", "my.program")
    for cell, programs in zip(made, starts, strict=True):
        cell.workdir.mkdir(parents=True)
        *earlier, last = [{"steps": p} if p else {} for p in programs]
        environment = {**last, "earlier": earlier}
        (cell.workdir / "environment.json").write_text(json.dumps(environment))
    if fits:
        cells.check_same_program(made)
    else:
        with pytest.raises(
            InputError, match=r"by borrow_det.train, .* by benchmarks\."
        ):
            cells.check_same_program(made)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workdir=W", "--seeds=0"), "seeds"),
        (("--workdir=W", "surplus"), "unexpected argument 'surplus'"),
        (("--workdir=W", "--config.nothing=1"), "no field nothing"),
        (("--workdir=W", "--config.task=classification"), "task is 'classification'"),
        (("--workdir=W", "--config.nms.iou=2.0"), r"nms.iou is 2.0"),
        (("--workdir=W", "--config.stop_after=2"), "stop_after is 2, but the runs of"),
        (("--workdir=W", "--config.num_epochs=2"), "num_epochs is 2, but the runs of"),
        (
            ("--workdir=W", "--config.borrow.similarity=cos"),
            "row 'full, wide': borrow.similarity is 'cos'",
        ),
        (("--workdir=W", "--metrics="), "--metrics is empty"),
        (("--workdir=W", "--row=full"), "--row is 'full'; it must be one of ['ssd', "),
        (("--workdir=/dev/null/W",), "--workdir=/dev/null/W: Not a directory"),
        ((), "workdir"),
    ],
)
def test_wrong_command_lines_end_in_one_line(
    run, capsys, arguments, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("--config=a.py:b=1 --jobs=2 --config.x=1", "--config=a.py:b=1 --config.x=1"),
        ("--config a.py -config.x 1 --jobs 2", "--config=a.py --config.x=1"),
        ("--configs=a --noconfig.x --mode=run", "--config.x=False"),
        ("--workdir config --jobs=2", ""),
        (
            "--config=a --config.borrow.center --seeds=1",
            "--config=a --config.borrow.center=True",
        ),
    ],
)
def test_arguments_about_the_config_are_passed_to_cells(argv, expected):
    found = ablate._config_arguments(["ablate", *argv.split()], base.get_config())
    assert found == expected.split()


def test_ending_the_tool_ends_its_processes(files, tmp_path):
    config, sweep = files
    folder = tmp_path / "W"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "borrow_det.tools.ablate", f"--config={config}"),
            *("--config.num_steps=100000", "--config.eval_every=100000"),
            *(f"--sweep={sweep}", f"--workdir={folder}", "--seeds=1"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 120
    while not (folder / "ssd/seed_0/config.json").exists():
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert not _running(str(folder))


def _running(text):
    """Returns True if a process has this text in its command line."""
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if text in arguments and int(path.parent.name) != os.getpid():
            return True
    return False


def test_costs_need_no_training(run, make_tiny_config, tmp_path):
    assert run(f"--workdir={tmp_path}", "--mode=costs", "--latency_rounds=2") == 0
    records = json.loads((tmp_path / "cost.json").read_text())
    size = list(make_tiny_config().input_size)
    for record in records:
        assert (record["baseline"], record["input_size"]) == ("ssd", size)
        assert record["latency_rounds"] == 2
    footer = (tmp_path / "cost.md").read_text().splitlines()[-1]
    assert "--mode=costs" in footer
    assert f"jax {jax.__version__}, commit" in footer
    costs = {row["name"]: row["cost"] for row in records}
    assert list(costs) == ["ssd", "full, wide", "broken"]
    assert costs["ssd"]["latency_ratio"] == 1
    assert all(cost["latency_ms"] > 0 for cost in costs.values())
    # The networks differ in the channels of values, twelve and eight.
    wide, narrow = costs["full, wide"], costs["broken"]
    assert wide["parameters"] > narrow["parameters"]
    assert wide["flops"] > narrow["flops"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cost.json", "cost.md"]
