"""The time per step, and durations in words."""

import pytest

from borrow_det.reporting.pace import Pace, duration


def test_compilation_and_pauses_do_not_count(clock):
    pace = Pace()
    clock(300)
    for _ in range(3):
        pace.step()
        clock(2)
    for _ in range(4):
        pace.step()
        assert pace.seconds_per_step is None
        clock(2)
    with pace.paused():
        clock(70)
    pace.step()
    assert pace.seconds_per_step == pytest.approx(2.0)


def test_one_slow_step_is_enough(clock):
    pace = Pace()
    for _ in range(4):
        pace.step()
        clock(31)
    assert pace.seconds_per_step == pytest.approx(31.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0123, "0.012 s"),
        (1.5, "1.5 s"),
        (50.2, "50 s"),
        (99.4, "99 s"),
        (720, "12 min"),
        (3600, "1 h 0 min"),
        (3 * 3600 + 20 * 60, "3 h 20 min"),
        (24 * 3600 - 20, "1 d 0 h"),
        (53 * 3600, "2 d 5 h"),
    ],
)
def test_durations_are_rounded(seconds, text):
    assert duration(seconds) == text
