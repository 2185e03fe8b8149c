"""A clock and a terminal that tests control."""

import io
import time

import pytest


@pytest.fixture
def clock(monkeypatch):
    """A function that advances a clock which otherwise stands still."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def advance(seconds):
        now[0] += seconds

    return advance


@pytest.fixture
def terminal():
    """A terminal: a stream whose `new()` returns the text since its last call."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

        def new(self):
            text = self.getvalue()
            self.seek(0)
            self.truncate()
            return text

    return Terminal()
