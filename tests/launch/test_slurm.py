"""launch/slurm.sbatch with stand-ins for srun and scontrol."""

import pathlib
import re
import signal
import subprocess

import pytest

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "launch"

JOB = {
    **{"SLURM_JOB_ID": "17", "SLURM_SUBMIT_DIR": "/", "PYTHON": "/venv/python"},
    "SLURM_CPUS_PER_TASK": "8",
}
SRUN = [
    *("srun", "--cpus-per-task=8", "--kill-on-bad-exit=0", "--wait=300"),
    "--gpu-bind=none",
    *("/venv/python", "-m", "borrow_det.main", "--distributed", "--note=it's two"),
]
REQUEUE = ["scontrol", "requeue", "17"]


def run(slurm, **environment):
    result = slurm.run("slurm.sbatch", "--note=it's two", **JOB, **environment)
    return result, slurm.calls()


def test_a_run_that_has_saved_is_requeued(slurm):
    slurm.answer(srun=[("", "", 75)])
    result, calls = run(slurm)
    assert result.returncode == 75
    assert calls == [SRUN, REQUEUE]


@pytest.mark.parametrize("status", [0, 1, 2, 134, 137, 143])
def test_other_exit_statuses_end_the_job(slurm, status):
    slurm.answer(srun=[("", "", status)])
    result, calls = run(slurm)
    assert result.returncode == status
    assert calls == [SRUN]


def test_the_number_of_requeues_is_limited(slurm):
    slurm.answer(srun=[("", "", 75)])
    result, calls = run(slurm, SLURM_RESTART_COUNT="2", MAX_RESTARTS="3")
    assert (result.returncode, calls) == (75, [SRUN, REQUEUE])
    result, calls = run(slurm, SLURM_RESTART_COUNT="3", MAX_RESTARTS="3")
    assert (result.returncode, calls) == (75, [SRUN])
    assert "MAX_RESTARTS=3" in result.stderr


def test_a_refused_requeue_is_reported_and_keeps_the_exit_status(slurm):
    slurm.answer(srun=[("", "", 75)], scontrol=[("", "Job is pending\n", 1)])
    result, _ = run(slurm)
    assert result.returncode == 75
    assert "Job is pending" in result.stderr
    assert "slurm.sbatch: not requeued here" in result.stderr


def test_missing_arguments_are_refused(slurm):
    result = slurm.run("slurm.sbatch", **JOB)
    assert result.returncode == 2
    assert "the arguments of borrow_det.main are missing" in result.stderr
    assert slurm.calls() == []


def test_after_sigterm_the_script_waits_for_srun(tmp_path):
    """srun does not ignore the signal: an ignored signal would be inherited."""
    (tmp_path / "srun").write_text(
        "#!/usr/bin/env bash\ntrap 'exit 75' TERM\necho ready\n"
        'kill -TERM "$PPID"\nsleep 0.1\nkill -TERM "$$"\nsleep 20\n'
    )
    (tmp_path / "scontrol").write_text("#!/usr/bin/env bash\necho $*\n")
    for name in ("srun", "scontrol"):
        (tmp_path / name).chmod(0o755)
    result = subprocess.run(
        [LAUNCH / "slurm.sbatch", "a"],
        env={**JOB, "PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        restore_signals=True,
    )
    assert result.stdout == "ready\nrequeue 17\n"
    assert result.returncode == 75 != -signal.SIGTERM


def test_directives_request_equal_processes_and_gpus_and_a_signal():
    text = (LAUNCH / "slurm.sbatch").read_text()
    asked = re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", text, re.MULTILINE)
    asked = dict(asked)
    # Without B:, the signal goes to the processes and not to the script.
    assert asked["signal"] == "TERM@120"
    assert "requeue" in asked
    assert asked["open-mode"] == "append"
    # JAX assigns GPUs by the number of the process, so each process must see all.
    assert asked["ntasks-per-node"] == asked["gpus-per-node"]
    assert "gpus-per-task" not in asked
    # Slurm reads directives only before the first command.
    assert text.index("#SBATCH --output") < text.index("set -euo pipefail")
