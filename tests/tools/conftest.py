"""Fixtures that run import_weights by its command line."""

import sys

import pytest

from borrow_det.tools import import_weights
from borrow_det.tools.common import cli


@pytest.fixture
def run(monkeypatch):
    """A function that imports a file into a folder and returns the exit status."""

    def run(path, output, *arguments):
        argv = ["import_weights", f"--input={path}", f"--output={output}", *arguments]
        # ml_collections looks here for the fields of a config.
        monkeypatch.setattr(sys, "argv", argv)
        return cli.call(import_weights.main, argv)

    return run


@pytest.fixture
def refused(run, capsys):
    """A function that checks that an import is refused, and returns its one line."""

    def refused(path, output, *arguments):
        before = sorted(output.parent.iterdir())
        assert run(path, output, *arguments) == 2
        assert sorted(output.parent.iterdir()) == before
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return refused
