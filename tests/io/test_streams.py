"""Standard output and error: any text, any encoding, readers that go away."""

import os
import pathlib
import subprocess
import sys

import pytest

from borrow_det.io import streams

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PREPARED = "import sys; from borrow_det.io import streams; streams.prepare();"


def python(program, *, shell="", unbuffered=False, **variables):
    """Runs a program after `streams.prepare`; returns the finished process."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **variables}
    flags = "-u -c" if unbuffered else "-c"
    command = f'"$0" {flags} "$1" {shell}'
    arguments = (sys.executable, PREPARED + program)
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command, *arguments],
        env=environment,
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("variables", "cat"),
    [
        ({"LC_ALL": "C.UTF-8"}, "猫".encode()),
        ({"LC_ALL": "C"}, "猫".encode()),  # Python takes UTF-8 there.
        ({"LC_ALL": "POSIX", "PYTHONUTF8": "0"}, rb"\u732b"),
        ({"PYTHONIOENCODING": "ascii"}, rb"\u732b"),
        ({"PYTHONIOENCODING": "latin-1:strict"}, rb"\u732b"),
    ],
)
def test_any_name_is_printed_in_any_encoding(variables, cat):
    program = (
        "name = '\\u732b \\udcff.avi';"  # A byte 0xff in a file's name.
        "print(name); print(name, file=sys.stderr)"
    )
    done = python(program, **variables)
    assert done.returncode == 0
    assert done.stdout == done.stderr == cat + rb" \xff.avi" + b"\n"


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("shell", ["| head -n 1", "2>&1 | head -n 1"])
def test_a_reader_that_closes_the_pipe_does_not_end_the_program(
    tmp_path, shell, unbuffered
):
    end = tmp_path / "end"
    program = (
        "[print(i) for i in range(50000)]; [print(i, file=sys.stderr) for i in 'ab'];"
        f"open({str(end)!r}, 'w').write('reached'); sys.exit(3)"
    )
    done = python(program, shell=shell, unbuffered=unbuffered)
    assert (done.returncode, done.stdout) == (3, b"0\n")
    assert done.stderr == (b"" if "2>" in shell else b"a\nb\n")
    assert end.read_text() == "reached"


def test_closed_descriptors_take_any_output():
    program = "print('\\udcff'); print('\\udcff', file=sys.stderr); sys.exit(3)"
    done = python(program, shell=">&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"", b"")


def test_a_full_disk_is_an_error():
    done = python("print('lost', flush=True)", shell="> /dev/full")
    assert done.returncode == 120  # Python could not flush standard output.
    assert b"No space left on device" in done.stderr


def test_streams_that_replace_the_process_s_own_are_kept(capsys):
    before = sys.stdout, sys.stderr
    streams.prepare()
    assert (sys.stdout, sys.stderr) == before
    print("\udcff")
    print("\ud800", file=sys.stderr)
    assert capsys.readouterr() == ("\\xff\n", "\\ud800\n")
