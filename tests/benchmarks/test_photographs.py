"""The comparison on photographs: its commands, and how it stops."""

import os
import pathlib
import signal
import subprocess
import time

import pytest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "benchmarks/photographs.sh"

# Records the calls in place of Python, and does what the script relies on. A sweep
# exits as the file `exit` of its mode says; with `sleep` it waits to be interrupted.
STAND_IN = r"""#!/usr/bin/env bash
here=${0%/*}
[[ "$*" != *stored_maps* || -n $STORED_MAPS ]] || exit 3
printf '%s\x1f' "$@" >>"$here/calls"
printf '\x1e' >>"$here/calls"
output='' mode=''
for argument; do
  case $argument in
  --output=*) output=${argument#*=} ;;
  --mode=*) mode=${argument#*=} ;;
  esac
done
if [[ $2 == borrow_det.tools.convert ]]; then
  [[ ! -e $here/broken ]] || exit 2
  mkdir -p "$output/annotations"
  [[ "$*" != *data/roads* ]] || touch "$output/annotations/test.json"
fi
if [[ $mode == run && -e $here/sleep ]]; then
  trap 'touch "$here/interrupted"; exit 130' INT
  touch "$here/started"
  sleep 60 &>/dev/null &
  wait
fi
[[ -z $mode || ! -e $here/exit_$mode ]] || exit "$(<"$here/exit_$mode")"
"""
CONVERT, ABLATE = "borrow_det.tools.convert", "borrow_det.tools.ablate"


class Script:
    """The script in a folder with two sets and imported weights."""

    def __init__(self, folder):
        self.folder, self.path = folder, SCRIPT
        python = folder / "python"
        python.write_text(STAND_IN)
        python.chmod(0o755)
        (folder / "vgg").mkdir()
        (folder / "vgg" / "import.json").write_text("{}")
        for name in ("fish", "roads"):
            (folder / "my data" / name / "annotations").mkdir(parents=True)

    def start(self, *arguments, **environment):
        (self.folder / "calls").unlink(missing_ok=True)
        return subprocess.Popen(
            [self.path, *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHON": str(self.folder / "python"), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments, **environment):
        """Returns the exit status, stdout, stderr, and the calls of Python."""
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err, self.calls()

    def calls(self):
        path = self.folder / "calls"
        text = path.read_text() if path.exists() else ""
        return [call.split("\x1f")[:-1] for call in text.split("\x1e")[:-1]]


@pytest.fixture
def script(tmp_path):
    return Script(tmp_path)


BOTH = ("my data", "vgg", "work", "gpu", "fish", "roads")


def test_every_set_is_shrunk_and_compared(script):
    status, _, err, calls = script.run(*BOTH, SEEDS="3", ROWS="ssd;full")
    assert (status, err) == (0, "")
    assert [call[1] for call in calls] == 2 * [CONVERT, ABLATE]
    assert f"--input={script.folder}/my data/fish" in calls[0]
    assert "--largest_side=640" in calls[0]
    expected = {
        f"--config=configs/folder.py:path={script.folder}/work/images/640/fish,"
        f"weights={script.folder}/vgg,frozen=2,size=512,steps=400,batch=32",
        "--config.anchors.sizes=(32.0, 64.0, 128.0, 256.0)",
        "--folds=5",
        "--seeds=3",
        "--row=ssd",
        "--row=full",
        "--mode=run",
        "--against=ssd + context",
        "--main=borrow_det.main",
        "--config.optimizer.learning_rate=0.0003",
        f"--workdir={script.folder}/work/fish",
    }
    assert expected <= set(calls[1])
    # A set with a test split is evaluated on its own splits.
    assert "--folds=5" not in calls[3]
    assert "--config.dataset.eval_splits=('val', 'test')" in calls[3]

    *_, calls = script.run(*BOTH)
    assert [call[1] for call in calls] == 2 * [ABLATE]  # Shrunk already.
    status, *_, calls = script.run(*BOTH[:3], "cpu", "fish")
    assert status == 0
    assert [call[1] for call in calls] == [CONVERT, ABLATE]  # To another size.
    # All of VGG-16's convolutions are frozen.
    assert "--main=benchmarks.stored_maps" in calls[1]


def test_failed_runs_are_told_by_the_status_after_all_sets(script):
    (script.folder / "exit_run").write_text("1")
    status, *_, calls = script.run(*BOTH)
    assert status == 1
    assert [call[1] for call in calls] == 2 * [CONVERT, ABLATE]


def test_wrong_fields_stop_the_first_set(script):
    (script.folder / "exit_run").write_text("2")
    status, *_, calls = script.run(*BOTH)
    assert status == 2
    assert [call[1] for call in calls] == [CONVERT, ABLATE]


@pytest.mark.parametrize("finished", [True, False])
def test_the_limit_of_time_ends_with_a_report_of_each_set(script, finished):
    (script.folder / "sleep").touch()
    if not finished:
        (script.folder / "exit_report").write_text("2")
    # Bash counts the seconds of the script from SECONDS=0: two are left for two sets.
    text = SCRIPT.read_text().replace("SECONDS=0 status", "SECONDS=58 status")
    shortened = script.folder / "benchmarks" / "photographs.sh"
    shortened.parent.mkdir()
    shortened.write_text(text)
    shortened.chmod(0o755)
    script.path = shortened
    status, out, err, calls = script.run(*BOTH, MINUTES="1")
    assert status == 0, err
    modes = [arg for call in calls for arg in call if "--mode=" in arg]
    assert modes == 2 * ["--mode=run", "--mode=report"]
    assert ("fish: no row is finished yet" in out) != finished


@pytest.mark.parametrize("minutes", ["", "1"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (15, 143)])
def test_a_signal_stops_the_runs_and_the_script(script, number, status, minutes):
    (script.folder / "sleep").touch()
    process = script.start(*BOTH, MINUTES=minutes)
    while not (script.folder / "started").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == status
    assert (script.folder / "interrupted").exists()
    assert [call[1] for call in script.calls()] == [CONVERT, ABLATE]


def test_a_set_that_cannot_be_shrunk_is_left_out(script):
    (script.folder / "broken").touch()
    status, *_, calls = script.run(*BOTH)
    assert status == 1
    assert [call[1] for call in calls] == 2 * [CONVERT]


def test_shrunk_images_of_other_annotations_are_refused(script):
    script.run(*BOTH)
    later = time.time() + 10
    file = script.folder / "my data" / "fish" / "annotations" / "train.json"
    file.write_text("{}")
    os.utime(file, (later, later))
    status, _, err, calls = script.run(*BOTH)
    assert (status, calls) == (2, [])
    assert "work/images/640/fish is of other images or annotations: remove it" in err


def test_the_interpreter_of_a_virtual_environment_keeps_its_place(script):
    (script.folder / "bin").mkdir()
    (script.folder / "bin" / "python").symlink_to(script.folder / "python")
    done = script.start(*BOTH, PYTHON="bin/python")
    done.communicate(timeout=30)
    assert (script.folder / "bin" / "calls").exists()
    assert not (script.folder / "calls").exists()


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (BOTH[:3], {}, "give DATA, VGG, WORK, and cpu or gpu"),
        ((*BOTH[:3], "tpu"), {}, "'tpu' is neither cpu nor gpu"),
        (("my data", "no/such", *BOTH[2:]), {}, "such is no folder of imported"),
        (("no/such", *BOTH[1:]), {}, "no/such/fish has no folder annotations"),
        ((*BOTH, "rods"), {}, "my data/rods has no folder annotations"),
        (("my data", "vgg", "a,b", "cpu", "fish"), {}, "must have no comma"),
        (BOTH, {"MINUTES": "0.5"}, "MINUTES=0.5 is not an integer above 0"),
        (BOTH, {"SIZE": "big"}, "SIZE=big is not an integer above 0"),
    ],
)
def test_wrong_arguments_are_named(script, arguments, environment, message):
    status, _, err, calls = script.run(*arguments, **environment)
    assert (status, calls) == (2, [])
    assert message in err
    assert len(err.splitlines()) == 1
