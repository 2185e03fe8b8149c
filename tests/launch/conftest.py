"""Stand-ins for programs that the launch scripts call; they record calls and answer."""

import os
import pathlib
import shutil
import subprocess

import pytest

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "launch"

# Answers the n-th call of a kind with the n-th given answer (later calls with the last
# one), or with success and no output if none is given. Bash starts quickly.
STAND_IN = r"""#!/usr/bin/env bash
folder=${0%/bin/*} kind=${0##*/}
if [[ $kind == gcloud ]]; then
  kind="$3 $4"
  [[ "$*" =~ .*tpu_worker.sh\ ([a-z]+) ]] && kind=${BASH_REMATCH[1]}
fi
printf '%s\x1f' "${0##*/}" "$@" >>"$folder/calls"
printf '\x1e' >>"$folder/calls"
answers="$folder/answers/$kind"
[[ -d $answers ]] || exit 0
number=0
[[ ! -e $answers/next ]] || number=$(<"$answers/next")
[[ ! -d $answers/$((number + 1)) ]] || echo $((number + 1)) >"$answers/next"
IFS= read -r -d '' out <"$answers/$number/out"
IFS= read -r -d '' err <"$answers/$number/err"
printf %s "$out"
printf %s "$err" >&2
exit "$(<"$answers/$number/status")"
"""


class StandIns:
    """Programs in a folder on PATH, and the arguments of their calls."""

    def __init__(self, folder, *names):
        self.folder = folder
        (folder / "bin").mkdir()
        for name in names:
            (folder / "bin" / name).write_text(STAND_IN)
            (folder / "bin" / name).chmod(0o755)

    def answer(self, **answers):
        """Sets the answers by kind of call: outputs, or (output, error, status)."""
        shutil.rmtree(self.folder / "answers", ignore_errors=True)
        for kind, given in answers.items():
            name = kind.replace("__", " ").replace("_", "-")
            for number, answer in enumerate(given):
                place = self.folder / "answers" / name / str(number)
                place.mkdir(parents=True)
                parts = (answer, "", 0) if isinstance(answer, str) else answer
                for part, text in zip(("out", "err", "status"), parts, strict=True):
                    (place / part).write_text(str(text))

    def run(self, script, *arguments, **environment):
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return subprocess.run(
            [LAUNCH / script, *arguments],
            env={**os.environ, "PATH": path, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def calls(self):
        """Returns the calls in order, each as a list of words, and clears them."""
        path = self.folder / "calls"
        calls = path.read_text().split("\x1e")[:-1] if path.exists() else []
        path.unlink(missing_ok=True)
        return [call.split("\x1f")[:-1] for call in calls]


@pytest.fixture
def gcloud(tmp_path):
    return StandIns(tmp_path, "gcloud")


@pytest.fixture
def slurm(tmp_path):
    return StandIns(tmp_path, "srun", "scontrol")
