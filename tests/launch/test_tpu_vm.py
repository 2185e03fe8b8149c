"""launch/tpu_vm.sh against a gcloud that records its calls."""

import re
import shlex

import pytest

NOT_FOUND = ("", "ERROR: (gcloud) NOT_FOUND: Resource 'n' was not found.\n", 1)
DONE = "borrow_det_worker exited 0 5\n"
RUNNING = "borrow_det_worker running\n"
FLAGS = ("--name=n", "--zone=z", "--type=v5litepod-16", "--version=r", "--poll=0")
ARGS = ("--", "--config=c.py:a=1", "--workdir=gs://b/w", "--config.note=it's two")

TAIL = ["--zone=z", "--quiet"]
TPUS = ["gcloud", "compute", "tpus"]
SSH_FLAGS = [
    "--ssh-flag=-oServerAliveInterval=15",
    "--ssh-flag=-oServerAliveCountMax=4",
]
WORKER = "bash borrow_det/launch/tpu_worker.sh"


def ssh(worker, command):
    ends = [f"--worker={worker}", f"--command={command}", *SSH_FLAGS]
    return [*TPUS, "tpu-vm", "ssh", "n", *ends, *TAIL]


DESCRIBE = [*TPUS, "tpu-vm", "describe", "n", "--format=value(state)", *TAIL]
CREATE = [
    *(*TPUS, "tpu-vm", "create", "n", "--accelerator-type=v5litepod-16"),
    *("--version=r", *TAIL),
]
DELETE = [*TPUS, "tpu-vm", "delete", "n", *TAIL]
SCP = [
    *(*TPUS, "tpu-vm", "scp", "TAR", "n:borrow_det.tar.gz", "--worker=all"),
    *TAIL,
]
INSTALL = ssh(
    "all",
    "if [ -f borrow_det/launch/tpu_worker.sh ]; then"
    " bash borrow_det/launch/tpu_worker.sh stop; fi && "
    "rm -rf borrow_det && mkdir borrow_det && tar -xzf borrow_det.tar.gz -C borrow_det"
    f" && {WORKER} install",
)
START = ssh(
    "all",
    f"{WORKER} start --distributed --config=c.py:a=1 --workdir=gs://b/w"
    r" --config.note=it\'s\ two",
)
STATUS = ssh(
    "all",
    f"if [ -f borrow_det/launch/tpu_worker.sh ]; then {WORKER} status;"
    " else echo borrow_det_worker idle; fi",
)
QUEUED_DESCRIBE = [
    *(*TPUS, "queued-resources", "describe", "n", "--format=value(state.state)"),
    *TAIL,
]
QUEUED_CREATE = [
    *(*TPUS, "queued-resources", "create", "n", "--node-id=n"),
    *("--accelerator-type=v5litepod-16", "--runtime-version=r", "--spot", *TAIL),
]
QUEUED_DELETE = [*TPUS, "queued-resources", "delete", "n", "--force", *TAIL]


def follow(line=1):
    return ssh(0, f"{WORKER} follow {line} 600")


def named(calls):
    """Returns the calls without the name of the temporary folder."""
    return [[re.sub(r"^/.*\.tar\.gz$", "TAR", word) for word in c] for c in calls]


def run(gcloud, *flags, args=ARGS):
    result = gcloud.run("tpu_vm.sh", "run", *FLAGS, *flags, *args)
    return result, named(gcloud.calls())


@pytest.fixture
def fresh(gcloud):
    """Stand-in for a gcloud that finds no VM at first, then the one it created."""
    gcloud.answer(tpu_vm__describe=[NOT_FOUND, "READY"], status=[DONE])
    return gcloud


FRESH_RUN = [DESCRIBE, CREATE, DESCRIBE, SCP, INSTALL, START, follow(), DESCRIBE]


def test_a_run_creates_installs_starts_and_deletes(fresh):
    result, calls = run(fresh)
    assert result.returncode == 0, result.stderr
    assert calls == [*FRESH_RUN, STATUS, DELETE]


def test_project_and_further_flags_are_passed_to_gcloud(fresh):
    _, calls = run(
        fresh,
        "--project=p",
        "--create_flag=--network=x",
        "--connect_flag=--internal-ip",
    )
    assert all("--project=p" in call for call in calls)
    assert [c[4] for c in calls if "--network=x" in c] == ["create"]
    assert {c[4] for c in calls if "--internal-ip" in c} == {"ssh", "scp"}
    assert {c[4] for c in calls if "--internal-ip" not in c} == {
        *("describe", "create", "delete")
    }


def test_keep_does_not_delete_the_vm(fresh):
    result, calls = run(fresh, "--keep")
    assert result.returncode == 0
    assert calls == [*FRESH_RUN, STATUS]


def test_a_vm_that_is_ready_is_used(gcloud):
    gcloud.answer(
        tpu_vm__describe=["READY"], status=["borrow_det_worker idle\n" * 4, DONE * 4]
    )
    result, calls = run(gcloud)
    assert result.returncode == 0, result.stderr
    steps = [SCP, INSTALL, START, follow(), DESCRIBE, STATUS, DELETE]
    assert calls == [DESCRIBE, STATUS, *steps]


def test_a_run_in_progress_is_followed(gcloud):
    gcloud.answer(tpu_vm__describe=["READY"], status=[RUNNING * 4, DONE * 4])
    result, calls = run(gcloud)
    assert result.returncode == 0, result.stderr
    assert calls == [DESCRIBE, STATUS, follow(), DESCRIBE, STATUS, DELETE]


def test_a_run_that_is_ending_is_not_replaced(gcloud):
    ending = RUNNING * 3 + "borrow_det_worker exited 1 9\n"
    ended = "borrow_det_worker exited 1 9\n" * 4
    gcloud.answer(tpu_vm__describe=["READY"], status=[ending, ended])
    result, calls = run(gcloud)
    assert result.returncode == 1, result.stderr
    assert INSTALL not in calls
    assert calls[-1] == DELETE


def test_temporary_network_failures_do_not_end_the_run(gcloud):
    down = ("", "Max retries exceeded\n", 1)
    answers = [NOT_FOUND, *[down] * 9, "READY"]
    gcloud.answer(tpu_vm__describe=answers, status=[DONE * 4])
    result, _ = run(gcloud)
    assert result.returncode == 0, result.stderr
    gcloud.answer(tpu_vm__describe=[NOT_FOUND, down], status=[DONE * 4])
    result, calls = run(gcloud)
    assert result.returncode == 3
    assert "if n exists, it still costs money: launch/tpu_vm.sh delete" in result.stderr
    assert DELETE not in calls


def test_the_log_is_continued_at_its_line_after_a_lost_connection(fresh):
    fresh.answer(
        tpu_vm__describe=[NOT_FOUND, "READY"],
        status=[RUNNING * 4, ("", "ssh broke\n", 255), DONE * 4],
        follow=[("step 1\nstep 2\nste", "", 255), "step 3\n", ""],
    )
    result, calls = run(fresh)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "step 1\nstep 2\nstestep 3\n"
    assert [call for call in calls if "follow" in " ".join(call)] == [
        *(follow(1), follow(3), follow(4))
    ]


def test_permanent_failures_of_ssh_are_an_error(fresh):
    broken = ("", "ssh broke\n", 255)
    fresh.answer(
        tpu_vm__describe=[NOT_FOUND, "READY"], status=[broken], follow=[broken]
    )
    result, calls = run(fresh)
    assert result.returncode == 3
    assert "ssh to it fails" in result.stderr
    assert calls.count(STATUS) == 10
    assert DELETE not in calls


def test_a_queued_resource_is_waited_for(gcloud):
    waits = ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    gcloud.answer(
        queued_resources__describe=[NOT_FOUND, *waits],
        tpu_vm__describe=["CREATING", "READY"],
        status=[DONE],
    )
    result, calls = run(gcloud, "--queued", "--spot")
    assert result.returncode == 0, result.stderr
    assert calls == [
        *(QUEUED_DESCRIBE, QUEUED_CREATE, QUEUED_DESCRIBE, QUEUED_DESCRIBE),
        *(QUEUED_DESCRIBE, DESCRIBE, QUEUED_DESCRIBE, DESCRIBE),
        *(SCP, INSTALL, START, follow(), QUEUED_DESCRIBE, DESCRIBE, STATUS),
        QUEUED_DELETE,
    ]


@pytest.mark.parametrize("state", ["PREEMPTED", "TERMINATED", "FAILED", "SUSPENDED"])
def test_a_preempted_vm_is_created_again_and_runs_the_same_command(gcloud, state):
    gcloud.answer(
        tpu_vm__describe=[NOT_FOUND, "READY", state, state, NOT_FOUND, "READY"],
        follow=[("", "ssh broke\n", 255), ""],
        status=[DONE],
    )
    result, calls = run(gcloud)
    assert result.returncode == 0, result.stderr
    assert "restart 1 of at most 100" in result.stderr
    assert calls == [*FRESH_RUN, DESCRIBE, DELETE, *FRESH_RUN, STATUS, DELETE]


def test_a_suspended_queued_resource_is_created_again(gcloud):
    gcloud.answer(
        queued_resources__describe=[
            *(NOT_FOUND, "ACTIVE", "SUSPENDING", "SUSPENDED", NOT_FOUND, "ACTIVE"),
        ],
        tpu_vm__describe=["READY"],
        status=[DONE],
    )
    result, calls = run(gcloud, "--queued", "--spot")
    assert result.returncode == 0, result.stderr
    assert calls.count(QUEUED_CREATE) == 2
    assert calls.count(QUEUED_DELETE) == 2
    assert calls.count(START) == 2


def test_a_vm_that_is_lost_while_installing_is_created_again(gcloud):
    gcloud.answer(
        tpu_vm__describe=[
            *(NOT_FOUND, "READY", "PREEMPTED", "PREEMPTED", NOT_FOUND, "READY"),
        ],
        install=[("", "connection closed\n", 255), ""],
        status=[DONE],
    )
    result, calls = run(gcloud)
    assert result.returncode == 0, result.stderr
    assert calls.count(INSTALL) == 2
    assert calls.count(START) == 1


def test_a_run_that_saved_is_resumed_on_the_same_vm(gcloud):
    gcloud.answer(
        tpu_vm__describe=[NOT_FOUND, "READY"],
        status=["borrow_det_worker exited 75 5\n" * 4] * 2 + [DONE * 4],
    )
    result, calls = run(gcloud)
    assert result.returncode == 0, result.stderr
    assert calls.count(CREATE) == 1
    assert calls.count(START) == 2


def test_the_number_of_restarts_is_limited(gcloud):
    gcloud.answer(
        tpu_vm__describe=[NOT_FOUND, "READY"],
        status=["borrow_det_worker exited 75 5\n"],
    )
    result, calls = run(gcloud, "--max_restarts=2")
    assert result.returncode == 75
    assert "--max_restarts=2" in result.stderr
    assert calls.count(START) == 3
    # Checkpoints are in the bucket.
    assert calls[-1] == DELETE


def test_workers_that_are_killed_ten_times_end_the_run(gcloud):
    gcloud.answer(
        tpu_vm__describe=[NOT_FOUND, "READY"],
        status=["borrow_det_worker exited 137 5\n"],
    )
    result, calls = run(gcloud)
    assert result.returncode == 137
    assert calls.count(START) == 10
    assert calls[-1] == DELETE


@pytest.mark.parametrize(
    ("workers", "status"),
    [
        (["exited 2 9", "exited 2 8", "exited 2 9", "exited 2 9"], 2),
        # Wrong input counts, whichever worker fails first.
        (["exited 134 7", "exited 2 8", "exited 134 9", "exited 134 9"], 2),
        (["exited 134 9", "exited 1 8", "exited 134 10", "exited 134 11"], 1),
        (["exited 0 9", "exited 0 9", "exited 3 10", "exited 0 9"], 3),
    ],
)
def test_a_failed_run_is_not_retried(gcloud, workers, status):
    lines = "".join(f"borrow_det_worker {worker}\n" for worker in workers)
    gcloud.answer(tpu_vm__describe=[NOT_FOUND, "READY"], status=[lines])
    result, calls = run(gcloud)
    assert result.returncode == status
    assert calls == [*FRESH_RUN, STATUS, DELETE]


def test_the_worker_that_failed_first_decides_whether_to_resume(gcloud):
    """Peers of a killed worker may exit with 1, which is not a bug."""
    lines = "borrow_det_worker exited 1 9\nborrow_det_worker exited 137 8\n"
    gcloud.answer(tpu_vm__describe=[NOT_FOUND, "READY"], status=[lines, lines, DONE])
    result, calls = run(gcloud)
    assert result.returncode == 0, result.stderr
    assert calls.count(START) == 2


def test_workers_that_do_not_exit_are_stopped_after_a_while(gcloud):
    ending = "borrow_det_worker exited 1 9\n" + RUNNING
    gcloud.answer(
        tpu_vm__describe=[NOT_FOUND, "READY"],
        status=[ending] * 20 + ["borrow_det_worker exited 1 9\n" * 2],
    )
    result, calls = run(gcloud)
    assert result.returncode == 1
    assert calls.count(ssh("all", f"{WORKER} stop")) == 1
    assert calls.count(STATUS) == 21


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"tpu_vm__describe": [("", "PERMISSION_DENIED: no\n", 1)]}, "tpu-vm describe"),
        ({"tpu_vm__create": [("", "quota exceeded\n", 1)]}, "tpu-vm create"),
        ({"tpu_vm__scp": [("", "disk full\n", 1)]}, "copying failed"),
        ({"install": [("", "no such package\n", 1)]}, "installing failed"),
        ({"start": [("", "is going on\n", 1)]}, "starting failed"),
        ({"tpu_vm__delete": [("", "try later\n", 1)]}, "tpu-vm delete"),
    ],
)
def test_failures_of_gcloud_end_with_its_message(gcloud, answers, message):
    given = {"tpu_vm__describe": [NOT_FOUND, "READY"], "status": [DONE], **answers}
    gcloud.answer(**given)
    result, calls = run(gcloud)
    assert result.returncode == 3
    [(_, theirs, _), *_] = next(iter(answers.values()))
    assert theirs in result.stderr
    assert message in result.stderr
    kinds = [call[4] for call in calls]
    assert kinds.count("create") <= 1


def test_a_stopped_vm_is_an_error_for_the_user(gcloud):
    gcloud.answer(tpu_vm__describe=["STOPPED"])
    result, calls = run(gcloud)
    assert result.returncode == 3
    assert "n is STOPPED" in result.stderr
    assert calls == [DESCRIBE]


@pytest.mark.parametrize("flags", [(), ("--queued", "--spot"), ("--project=p",)])
def test_dry_run_prints_the_commands_and_runs_none(gcloud, flags):
    dry, calls = run(gcloud, *flags, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert calls == []
    pack, *printed = dry.stdout.splitlines()
    assert pack.startswith("git -C ")
    gcloud.answer(
        tpu_vm__describe=["READY"]
        if flags[:1] == ("--queued",)
        else [NOT_FOUND, "READY"],
        queued_resources__describe=[NOT_FOUND, "ACTIVE"],
        status=[DONE],
    )
    real, calls = run(gcloud, *flags)
    assert real.returncode == 0, real.stderr
    assert named(shlex.split(line) for line in printed) == calls
