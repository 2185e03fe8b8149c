"""launch/tpu_vm.sh: flags, files that are copied, and Ctrl-C."""

import os
import pathlib
import shutil
import signal
import subprocess
import tarfile
import time

import pytest

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "launch"
NOT_FOUND = ("", "ERROR: (gcloud) NOT_FOUND: Resource 'n' was not found.\n", 1)
DONE = "borrow_det_worker exited 0 5\n"
RUNNING = "borrow_det_worker running\n"
FLAGS = ("--name=n", "--zone=z", "--type=v5litepod-16", "--version=r", "--poll=0")
ARGS = ("--", "--config=c.py", "--workdir=gs://b/w")


@pytest.fixture
def fresh(gcloud):
    """Stand-in for a gcloud that finds no VM at first, then the one it created."""
    gcloud.answer(tpu_vm__describe=[NOT_FOUND, "READY"], status=[DONE])
    return gcloud


def test_files_that_git_does_not_ignore_are_copied(gcloud, tmp_path):
    """The test's repository has a committed, a new and an ignored file."""
    root = tmp_path / "checkout"
    shutil.copytree(LAUNCH, root / "launch")
    (root / ".gitignore").write_text("runs/\n")
    (root / "runs").mkdir()
    for name in ("committed.py", "new file.py", "runs/log"):
        (root / name).write_text("old")
    for command in (["init", "-q"], ["add", "committed.py"]):
        subprocess.run(["git", "-C", root, *command], check=True)
    (root / "committed.py").write_text("changed")
    # The stand-in for scp keeps the archive.
    keep = '[[ $4 != scp ]] || cp "$5" "${0%/bin/*}/copied.tar.gz"\n'
    program = gcloud.folder / "bin" / "gcloud"
    program.write_text(program.read_text().replace("\nfolder=", f"\n{keep}folder=", 1))
    gcloud.answer(tpu_vm__describe=[NOT_FOUND, "READY"], status=[DONE])
    result = gcloud.run(root / "launch" / "tpu_vm.sh", "run", *FLAGS, *ARGS)
    assert result.returncode == 0, result.stderr
    with tarfile.open(tmp_path / "copied.tar.gz") as packed:
        names = set(packed.getnames())
        assert packed.extractfile("committed.py").read() == b"changed"
    assert {"launch/tpu_worker.sh", "committed.py", "new file.py"} < names
    assert "runs/log" not in names


@pytest.mark.parametrize("deleting", [False, True])
def test_after_ctrl_c_the_run_continues_unless_it_should_be_deleted(fresh, deleting):
    program = fresh.folder / "bin" / "gcloud"
    waits = '[[ "$*" != *follow* ]] || { : >"$folder/following"; exec sleep 20; }\n'
    program.write_text(program.read_text().replace("answers=", f"{waits}answers=", 1))
    asked = ["--delete_on_interrupt"] if deleting else []
    process = subprocess.Popen(
        [LAUNCH / "tpu_vm.sh", "run", *FLAGS, *asked, *ARGS],
        env={**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (fresh.folder / "following").exists():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # A terminal sends it to the group.
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    note = "the run continues there; if n exists, it still costs money"
    assert (note in err) != deleting
    assert ("delete" in [call[4] for call in fresh.calls()]) == deleting


@pytest.mark.parametrize(
    ("flags", "args", "message"),
    [
        ((), ("--", "--config=c"), "--workdir is missing"),
        ((), (), "nothing to run"),
        ((), ("--", "--workdir=runs/w"), "must see it; use gs://"),
        (
            ("--type=v5litepod-8",),
            ("--", "--workdir", "runs/w"),
            "runs/w is deleted with the VM",
        ),
        (("--type=",), ARGS, "--type is missing"),
        (("--zones=z",), ARGS, "unknown flag --zones=z"),
        (("--max_restarts=many",), ARGS, "is not a number"),
    ],
)
def test_wrong_flags_are_named_in_the_error(gcloud, flags, args, message):
    result = gcloud.run("tpu_vm.sh", "run", *FLAGS, *flags, *args)
    assert result.returncode == 2
    assert message in result.stderr
    assert gcloud.calls() == []


ALONE = ("--type=v5litepod-8", "--max_restarts=0", "--keep")


def test_one_worker_that_is_kept_may_have_a_local_work_directory(fresh):
    result = fresh.run("tpu_vm.sh", "run", *FLAGS, *ALONE, "--", "--workdir=/runs/w")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("flags", "workdir", "message"),
    [
        (ALONE[:2], "/runs/w", "is deleted with the VM"),
        (ALONE[::2], "/runs/w", "is deleted with the VM"),
        (ALONE, "runs/w", "is in the copy of the checkout"),
        (("--type=v5litepod",), "/runs/w", "does not end with a number"),
    ],
)
def test_a_work_directory_that_would_be_deleted_is_refused(
    gcloud, flags, workdir, message
):
    result = gcloud.run(
        "tpu_vm.sh", "run", *FLAGS, *flags, "--", f"--workdir={workdir}"
    )
    assert result.returncode == 2
    assert message in result.stderr
    assert gcloud.calls() == []


def test_status_prints_states_and_delete_deletes(gcloud):
    gcloud.answer(tpu_vm__describe=["READY"], status=[RUNNING])
    result = gcloud.run("tpu_vm.sh", "status", "--name=n", "--zone=z")
    assert result.stdout == f"n: READY\n{RUNNING}"
    assert [call[4] for call in gcloud.calls()] == ["describe", "ssh"]
    assert gcloud.run("tpu_vm.sh", "delete", "--name=n", "--zone=z").returncode == 0
    assert [call[4] for call in gcloud.calls()] == ["delete"]


def test_help_is_printed(gcloud):
    for arguments in (["--help"], ["run", "--help"]):
        result = gcloud.run("tpu_vm.sh", *arguments)
        assert result.returncode == 0
        assert "usage: launch/tpu_vm.sh run" in result.stdout
