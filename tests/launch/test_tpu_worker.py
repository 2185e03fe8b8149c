"""launch/tpu_worker.sh on this machine, with a stand-in for the interpreter."""

import pathlib
import shutil
import subprocess
import time

import pytest

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "launch"

# Prints its arguments, waits for the file `go`, and ends with what that says.
PYTHON = """#!/usr/bin/env bash
echo "$@"
trap 'echo saved; exit 75' TERM
for ((i = 0; i < 1000; i++)); do
  [[ ! -s go ]] || exit "$(<go)"
  sleep 0.02
done
"""


class Worker:
    """Checkout with only the files that the script needs."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "launch").mkdir()
        shutil.copy(LAUNCH / "tpu_worker.sh", folder / "launch")
        (folder / ".venv" / "bin").mkdir(parents=True)
        self.program(".venv/bin/python", PYTHON)

    def program(self, name, text):
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def __call__(self, *arguments, **environment):
        return subprocess.run(
            ["bash", self.folder / "launch" / "tpu_worker.sh", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=environment or None,
        )

    def end(self, status):
        (self.folder / "go").write_text(str(status))
        return self.ended()

    def ended(self):
        for _ in range(500):
            status = self("status").stdout
            if "running" not in status:
                return status
            time.sleep(0.02)
        pytest.fail("the run does not end")


@pytest.fixture
def worker(tmp_path):
    worker = Worker(tmp_path)
    yield worker
    worker("stop", STOP_SECONDS="0", PATH="/usr/bin:/bin")


def test_a_run_outlives_the_call_and_leaves_status_and_log(worker):
    assert worker("status").stdout == "borrow_det_worker idle\n"
    before = time.time_ns()
    assert worker("start", "--distributed", "--note=it's two").returncode == 0
    assert worker("status").stdout == "borrow_det_worker running\n"
    name, state, status, at = worker.end(2).split()
    assert (name, state, status) == ("borrow_det_worker", "exited", "2")
    assert before < int(at) < time.time_ns()
    log = "-m borrow_det.main --distributed --note=it's two\n"
    assert worker("follow", "1", "10").stdout == log
    assert worker("follow", "2", "10").stdout == ""


def test_a_second_run_is_refused_while_one_is_in_progress(worker):
    worker("start", "first")
    second = worker("start", "second")
    assert second.returncode == 1
    assert "in progress" in second.stderr
    assert "exited 0 " in worker.end(0)
    (worker.folder / "go").unlink()
    assert worker("start", "second").returncode == 0
    assert worker("status").stdout == "borrow_det_worker running\n"
    worker.end(0)
    log = (worker.folder / "run.log").read_text()
    assert "second" in log
    assert "first" not in log


def test_following_ends_after_the_given_time(worker):
    worker("start", "a")
    result = worker("follow", "1", "0.2")
    assert (result.returncode, result.stdout) == (0, "-m borrow_det.main a\n")


def test_stop_gives_the_run_time_to_save(worker):
    worker("start", "a")
    while not (worker.folder / "run.log").read_text():
        time.sleep(0.01)
    assert worker("stop").returncode == 0
    assert "exited 75 " in worker("status").stdout
    assert (worker.folder / "run.log").read_text().endswith("saved\n")
    assert worker("stop").returncode == 0


def test_a_run_that_is_stopped_at_once_records_how_it_ended(worker):
    # A busy machine, where the run's own process group takes a while to exist.
    worker.program("setsid", '#!/bin/bash\nsleep 0.5\nexec /usr/bin/setsid "$@"\n')
    path = f"{worker.folder}:/usr/bin:/bin"
    assert worker("start", "a", PATH=path).returncode == 0
    assert worker("stop", PATH=path).returncode == 0
    name, state, status, _ = worker("status").stdout.split()
    # The stand-in for Python may not have its own handler yet.
    assert (name, state) == ("borrow_det_worker", "exited")
    assert status in ("75", "143")


def test_a_run_that_does_not_start_is_reported(worker):
    worker.program("setsid", "#!/bin/bash\necho no more processes >&2\nexit 1\n")
    started = worker("start", "a", PATH=f"{worker.folder}:/usr/bin:/bin")
    assert started.returncode == 1
    assert "the run did not start: no more processes" in started.stderr


def test_a_run_killed_with_its_supervisor_has_status_137(worker):
    worker("start", "a")
    worker("stop", STOP_SECONDS="0", PATH="/usr/bin:/bin")
    ended = worker.ended()
    assert "exited 137 " in ended
    # The time is that of the death, not of the call.
    assert worker("status").stdout == ended


def test_a_reused_process_id_does_not_count_as_a_run(worker):
    # A separate process group, which a broken script would end.
    other = subprocess.Popen(["sleep", "30"], start_new_session=True)
    (worker.folder / "run.pid").write_text(f"{other.pid}\n")
    assert "exited 137 " in worker("status").stdout
    worker("stop")
    assert other.poll() is None
    other.kill()
    other.wait()


RECORD = """#!/usr/bin/env bash
echo "${0##*/} $*" >>calls
"""
# Makes an environment whose pip records.
MAKES = """[[ "$*" != *venv* ]] || { mkdir -p .venv/bin && cp record .venv/bin/pip; }
"""


def installed(worker, *suitable):
    shutil.rmtree(worker.folder / ".venv")
    (worker.folder / "bin").mkdir()
    worker.program("record", RECORD)
    for name in ("python3.12", "python3.11", "python3"):
        refuse = "" if name in suitable else "[[ $1 != -c ]] || exit 1\n"
        record = "[[ $1 == -c ]] && exit 0\n" + RECORD.partition("\n")[2]
        worker.program(f"bin/{name}", "#!/bin/bash\n" + refuse + record + MAKES)
    path = f"{worker.folder / 'bin'}:/usr/bin:/bin"
    result = worker("install", PATH=path)
    assert result.returncode == 0, result.stderr
    return pathlib.Path(worker.folder / "calls").read_text().splitlines()


PIP = "pip install --quiet --requirement requirements.txt"
PIP += " --requirement requirements-tpu.txt"


def test_install_uses_the_first_suitable_python(worker):
    assert installed(worker, "python3.11", "python3") == [
        *("python3.11 -m venv .venv", PIP),
    ]


def test_install_gets_a_python_if_none_is_suitable(worker):
    assert installed(worker) == [
        "python3 -m pip install --quiet --user uv",
        "python3 -m uv venv --quiet --seed --python=3.12 .venv",
        PIP,
    ]
