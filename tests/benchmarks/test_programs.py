"""Programs are made by threads, once each."""

import threading

import pytest

from benchmarks.programs import Once, ProgramPool


def test_programs_are_made_once_and_their_errors_are_raised():
    made = []
    programs = ProgramPool(2)
    programs.begin({"a": lambda: made.append("a") or 1, "b": lambda: 1 // 0})
    programs.begin({"a": lambda: made.append("again")})
    programs.wait(None)
    assert programs["a"] == 1
    assert made == ["a"]
    with pytest.raises(ZeroDivisionError):
        programs["b"]
    assert programs.unfinished == 0
    programs.cancel()


def test_a_program_that_is_late_raises_and_is_finished_later():
    released = threading.Event()
    programs = ProgramPool(1)
    programs.begin({"slow": lambda: released.wait() and 7, "next": lambda: 8})
    programs.wait(0.01)
    assert programs.unfinished == 2
    with pytest.raises(TimeoutError, match="next was not made in time"):
        programs["next"]
    programs.drop()  # Keeps programs that are still being made.
    released.set()
    programs.wait(None)
    assert [programs["slow"], programs["next"]] == [7, 8]
    programs.drop()
    with pytest.raises(KeyError):
        programs["slow"]
    programs.cancel()


def test_a_shared_value_is_computed_once():
    counts = []
    value = Once(lambda: counts.append(1))
    threads = [threading.Thread(target=value) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value() is None
    assert counts == [1]
