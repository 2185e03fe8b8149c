"""Flags with which processes cannot find each other, in separate programs."""

import os
import subprocess
import sys

import pytest

from tests import program


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_processes=2"], "--process_id go together"),
        (["--distributed"], "set --coordinator_address"),
        (
            [
                "--coordinator_address=localhost:1",
                "--num_processes=2",
                "--process_id=2",
            ],
            "process_id < num_processes",
        ),
    ],
)
def test_wrong_flags_end_in_one_line_and_status_2(tmp_path, flags, message):
    found = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "borrow_det.main",
                "--config=configs/quickstart.py",
            ),
            *(f"--workdir={tmp_path / 'W'}", *flags),
        ],
        cwd=program.ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 2, found.stderr
    (line,) = [x for x in found.stderr.splitlines() if x.startswith("error: ")]
    assert message in line
    assert not (tmp_path / "W").exists()
