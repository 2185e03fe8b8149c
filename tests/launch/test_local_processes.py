"""launch/local_processes.sh with a stand-in for the interpreter."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "launch"

# Records its arguments, then does what the test gave its process.
PYTHON = f"""#!{sys.executable} -ISs
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(__file__).parent
number = next(a[13:] for a in sys.argv if a.startswith("--process_id="))
names = ("XLA_FLAGS", "JAX_PLATFORMS")
environment = {{name: os.environ.get(name) for name in names}}
def wait_for(name):
    while not (folder / name).exists():
        time.sleep(0.005)
(folder / f"arguments.{{number}}").write_text(json.dumps([sys.argv[1:], environment]))
exec((folder / f"do.{{number}}").read_text())
"""
# Exits like a run that saves a checkpoint at SIGTERM.
SAVE = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
(folder / f"ready.{number}").touch()
time.sleep(20)
"""
INTERRUPTIBLE = """
(folder / f"ready.{number}").touch()
try:
    time.sleep(20)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture
def start(tmp_path):
    """Function that starts one process for each given script."""
    started = []

    def start(*to_do, arguments=("--", "--workdir=w"), **environment):
        (tmp_path / "python").write_text(PYTHON)
        (tmp_path / "python").chmod(0o755)
        for number, what in enumerate(to_do):
            (tmp_path / f"do.{number}").write_text(what)
        process = subprocess.Popen(
            [LAUNCH / "local_processes.sh", str(len(to_do)), *arguments],
            env={
                **{k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"},
                **{"PYTHON": str(tmp_path / "python"), "PEER_SECONDS": "5"},
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def finish(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def ready(folder, count):
    deadline = time.monotonic() + 20
    while len(list(folder.glob("ready.*"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def given(folder, number):
    return json.loads((folder / f"arguments.{number}").read_text())


def test_each_process_gets_its_number_and_the_same_coordinator(start, tmp_path):
    arguments = ("--", "--config=c.py:a=1", "--config.note=it's two")
    status, *_ = finish(start("", "", "", arguments=arguments, XLA_FLAGS="--x"))
    assert status == 0
    ports = set()
    for number in range(3):
        given_arguments, environment = given(tmp_path, number)
        module, name, coordinator, *rest = given_arguments
        assert (module, name) == ("-m", "borrow_det.main")
        ports |= set(
            re.findall(r"^--coordinator_address=localhost:(\d+)$", coordinator)
        )
        assert rest == [
            *("--num_processes=3", f"--process_id={number}"),
            *("--config=c.py:a=1", "--config.note=it's two"),
        ]
        assert environment == {"XLA_FLAGS": "--x", "JAX_PLATFORMS": None}
    assert len(ports) == 1


def test_simulated_devices_are_added_to_other_flags_of_xla(start, tmp_path):
    process = start("", arguments=("--devices=4", "--", "a"), XLA_FLAGS="--x=1 --y")
    assert finish(process)[0] == 0
    flags = "--x=1 --y --xla_force_host_platform_device_count=4"
    assert given(tmp_path, 0)[1] == {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def test_output_of_later_processes_has_their_number(start):
    to_do = "print('out', number); print('err', number, file=sys.stderr)"
    status, out, err = finish(start(to_do, to_do, to_do))
    assert status == 0
    lines = [f"[{i}] {name} {i}" for i in (1, 2) for name in ("err", "out")]
    assert sorted(out.splitlines()) == [*lines, "out 0"]
    assert err == "err 0\n"


@pytest.mark.parametrize(
    ("to_do", "status"),
    [
        (("", ""), 0),
        (("sys.exit(75)", "sys.exit(75)"), 75),
        (("", "sys.exit(75)"), 75),
        # The process that fails first has the reason; its failure ends the other.
        (("sys.exit(2)", "wait_for('failed'); sys.exit(134)"), 2),
        (("wait_for('failed'); sys.exit(1)", "os.kill(os.getpid(), 9)"), 137),
        # One process has not saved.
        (("sys.exit(75)", "wait_for('failed'); sys.exit(1)"), 1),
    ],
)
def test_the_exit_status_is_that_of_the_first_failure(start, tmp_path, to_do, status):
    process = start(*to_do)
    if any("wait_for" in what for what in to_do):
        while "ended with status" not in process.stderr.readline():
            assert process.poll() is None
        (tmp_path / "failed").touch()
    assert finish(process)[0] == status


def test_a_process_that_ignores_the_failure_of_a_peer_is_ended(start):
    start_time = time.monotonic()
    process = start("sys.exit(3)", "time.sleep(60)", PEER_SECONDS="0.1")
    assert finish(process)[0] == 3
    assert time.monotonic() - start_time < 10


@pytest.mark.parametrize(
    ("what", "sent", "status"),
    [(SAVE, signal.SIGTERM, 75), (INTERRUPTIBLE, signal.SIGINT, 130)],
)
def test_signals_reach_every_process(start, tmp_path, what, sent, status):
    process = start(what, what)
    ready(tmp_path, 2)
    process.send_signal(sent)
    code, _, err = finish(process)
    assert code == status
    for number in range(2):
        assert f"process {number} ended with status {status}" in err


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_no_process_is_left_when_the_script_is_ended(start, tmp_path):
    stay = "(folder / f'pid.{number}').write_text(str(os.getpid()))\n" + INTERRUPTIBLE
    process = start(stay, stay)
    ready(tmp_path, 2)
    process.send_signal(signal.SIGUSR1)
    finish(process)
    pids = [path.read_text() for path in tmp_path.glob("pid.*")]
    assert len(pids) == 2
    deadline = time.monotonic() + 5
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["two", "--", "a"], "'two' is not a number of processes"),
        (["2", "a"], "give the arguments of borrow_det.main after --"),
        (["2", "--"], "give the arguments of borrow_det.main after --"),
        (["2", "--devices=0", "--", "a"], "--devices=0 is not a number of devices"),
    ],
)
def test_wrong_arguments_are_named_in_the_error(arguments, message):
    script = LAUNCH / "local_processes.sh"
    result = subprocess.run(
        [script, *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert message in result.stderr
