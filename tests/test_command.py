"""The console command: its overview, its commands, and what it refuses."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

import borrow_det
from borrow_det import __main__ as command
from borrow_det.tools import score

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def run(monkeypatch, capsys):
    """A function: runs the command; returns (exit status, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["borrow-det", *arguments])
        monkeypatch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as stop:
            command.main()
        return (stop.value.code, *capsys.readouterr())

    return run


def test_the_overview_has_a_line_for_each_command(run):
    status, out, err = run("--help")
    assert (status, err) == (0, "")
    lines = [line.split() for line in out.splitlines()[2:-2]]
    assert [line[0] for line in lines] == [
        *("train", "evaluate", "predict", "explain", "inspect", "convert", "export"),
        *(
            "score",
            "ablate",
            "design-anchors",
            "benchmark",
            "aot-compile",
            "import-weights",
        ),
    ]
    assert all(len(line) > 3 for line in lines)
    assert run("-h") == run("help") == (0, out, "")
    assert run() == (2, out, "")


@pytest.mark.parametrize("name", command.COMMANDS)
def test_each_command_is_a_module(name):
    assert importlib.util.find_spec(command.COMMANDS[name].module) is not None


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("trian", "did you mean train?"),
        ("design", "did you mean design-anchors?"),
        ("qqq", "borrow-det --help lists them"),
    ],
)
def test_an_unknown_command_gets_one_sentence(run, name, hint):
    message = f"error: {name!r} is not a command of borrow-det; {hint}\n"
    assert run(name, "--workdir=W") == (2, "", message)


def test_a_command_runs_the_tool_of_its_name(run, tmp_path):
    truth, found = tmp_path / "truth.json", tmp_path / "found.json"
    box = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 40, 40]}
    truth.write_text(
        json.dumps(
            {
                "images": [{"id": 1, "width": 64, "height": 64, "file_name": "a"}],
                "annotations": [{**box, "id": 1, "area": 1600, "iscrowd": 0}],
                "categories": [{"id": 1, "name": "cat"}],
            }
        )
    )
    found.write_text(json.dumps([{**box, "score": 0.5}]))
    status, out, err = run("score", f"--ground_truth={truth}", f"--detections={found}")
    assert (status, err) == (0, "")
    assert json.loads(out)["AP"] == 1.0


def test_help_of_a_command_is_that_of_its_tool(run):
    status, out, err = run("score", "--help")
    assert (status, err) == (0, "")
    assert out.startswith(score.__doc__.strip())
    assert "  --ground_truth\n" in out


def test_a_commands_mistakes_end_in_one_line(run):
    status, out, err = run("score", "--grund_truth=x")
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert "grund_truth" in err
    assert err.count("\n") == 1


def test_the_version_is_printed(run):
    assert run("--version") == (0, f"borrow-det {borrow_det.__version__}\n", "")


def test_neither_the_package_nor_the_overview_imports_jax():
    program = (
        "import runpy, sys; sys.argv = ['borrow-det', '--help']\n"
        "import borrow_det; assert borrow_det.__version__\n"
        "try: runpy.run_module('borrow_det', run_name='__main__')\n"
        "finally: assert 'jax' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True
    )
    assert done.stdout.startswith(b"usage: borrow-det COMMAND")


def test_help_may_be_cut_off_by_its_reader():
    for arguments in ("--help", "score --help"):
        command = f"{sys.executable} -m borrow_det {arguments} | true"
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=ROOT,
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b"")


ASCII = {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}


def shell(command, **variables):
    """Runs a command line of bash, `{command}` in it the console command."""
    command = command.format(command=f"{sys.executable} -m borrow_det")
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        check=False,
    )


def test_scores_of_any_class_are_printed_in_any_locale_and_may_be_cut_off(tmp_path):
    truth, found = tmp_path / "truth.json", tmp_path / "found.json"
    box = {"image_id": 1, "category_id": 0, "bbox": [0, 0, 40, 40]}
    images = [{"id": 1, "width": 64, "height": 64, "file_name": "猫.jpg"}]
    categories = [{"id": 0, "name": "猫"}, {"id": 1, "name": "قطة"}]
    categories += [{"id": i, "name": f"猫 {i}"} for i in range(2, 2000)]
    content = {"images": images, "annotations": [box], "categories": categories}
    truth.write_text(json.dumps(content))
    found.write_text(json.dumps([{**box, "score": 0.5}]))
    score = f"{{command}} score --ground_truth={truth} --detections={found}"
    done = shell(score, **ASCII)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["AP/猫"] == 1.0
    # The text is longer than a pipe holds.
    cut = shell(f"{score} | head -n 1")
    assert (cut.returncode, cut.stdout, cut.stderr) == (0, b"{\n", b"")
    wrong = shell(
        f"{{command}} score --ground_truth={tmp_path}/猫 --detections=a", **ASCII
    )
    message = rb"/\xe7\x8c\xab: No such file or directory" + b"\n"
    assert (wrong.returncode, wrong.stderr[-len(message) :]) == (2, message)


def test_a_run_whose_reader_goes_away_trains_on_in_any_locale(scenes, tmp_path):
    for split in ("train", "val"):
        path = scenes / "annotations" / f"{split}.json"
        content = json.loads(path.read_text())
        content["categories"][0]["name"] = "猫"
        image = content["images"][0]
        (tmp_path / f"{split} 猫.jpg").symlink_to(scenes / image["file_name"])
        for other in content["images"][1:]:
            (tmp_path / other["file_name"]).symlink_to(scenes / other["file_name"])
        image["file_name"] = f"{split} 猫.jpg"
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    workdir = tmp_path / "W"
    done = shell(
        f"{{command}} train --config=tests/tiny_config.py:{tmp_path} "
        f"--workdir={workdir} --config.num_steps=2 --config.report.num_pictures=7 "
        "2>&1 | head -n 1",
        **ASCII,
        JAX_COMPILATION_CACHE_DIR=str(ROOT / ".pytest_cache" / "jax"),
    )
    assert done.returncode == 0
    assert done.stdout.startswith(b"preparing train")
    assert "猫" in (workdir / "report.md").read_text(encoding="utf-8")
    pictures = workdir / "evaluations" / "val" / "2"
    assert "10_val 猫.png" in [path.name for path in pictures.iterdir()]


def test_training_and_its_help_start_from_any_folder(tmp_path):
    def start(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "borrow_det", "train", *arguments],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PATH": ""},
            capture_output=True,
            text=True,
        )

    shown = start("--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "  --num_processes\n" in shown.stdout
    refused = start("--config=quickstart", "--workdir=W", "--config.num_steps=-1")
    assert refused.returncode == 2
    assert "num_steps is -1" in refused.stderr


def test_the_detector_is_a_public_name():
    from borrow_det.inference.detector import Detector

    assert borrow_det.Detector is Detector
    assert {"Detector", "__version__"} <= set(dir(borrow_det))
    with pytest.raises(AttributeError, match="no attribute 'Detectr'"):
        _ = borrow_det.Detectr
