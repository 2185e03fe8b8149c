"""Runs in separate processes that are stopped from outside and started again."""

import random
import signal
import time

import jax
import numpy as np
import pytest

from borrow_det.workdir import checkpoints
from tests import program
from tests.tiny_config import REFERENCES

pytestmark = pytest.mark.processes

STEPS = 120
FIELDS = (
    *(f"num_steps={STEPS}", "eval_every=40", "checkpoint_every=3", "log_every=3"),
    "ema_decay=0.9",
)
GROUP = tuple(f"{name}={value}" for name, value in REFERENCES["group"].items())


@pytest.fixture(scope="module", autouse=True)
def optax_promotes():
    """Integers are promoted inside of optax."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def whole_run(scenes, tmp_path_factory):
    """The work directory of the run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole") / "W"
    program.finish(program.start(scenes, folder, *FIELDS, devices=2), folder)
    return folder


def resumed(folder):
    """Returns the number of starts that have resumed."""
    return program.printed(folder).count("resuming at step")


@pytest.mark.parametrize("times", [4, pytest.param(10, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_ends_like_an_uninterrupted_one(
    scenes, whole_run, tmp_path, times
):
    kill_at_random_moments(scenes, whole_run, tmp_path / "W", times)


@pytest.mark.slow
def test_a_killed_run_with_references_ends_like_an_uninterrupted_one(scenes, tmp_path):
    whole = tmp_path / "whole"
    program.finish(program.start(scenes, whole, *FIELDS, *GROUP, devices=2), whole)
    kill_at_random_moments(scenes, whole, tmp_path / "W", 4, GROUP)


def kill_at_random_moments(scenes, whole_run, folder, times, fields=()):
    """Kills a run that often, and asserts that it ends like the uninterrupted one."""
    seed = time.time_ns()
    draw = random.Random(seed)
    print("seed", seed)
    fields = (*FIELDS, *fields)
    # When to kill each start: after a step that has whole saves behind it (so that the
    # next start resumes), or after seconds, at whatever a start does before a step.
    steps = sorted(draw.sample(range(4, STEPS // 3), times - 2))
    kills = [("step", 3 * step) for step in steps]
    for _ in range(2):
        kills.insert(draw.randrange(len(kills)), ("seconds", draw.uniform(0.5, 8)))
    resumes = 0  # What must have been printed before the next kill after a step.
    for kind, moment in kills:
        process = program.start(scenes, folder, *fields, devices=2, pause=0.02)
        if kind == "step":
            program.wait_for(
                lambda m=moment, n=resumes: (
                    program.last_step(folder) >= m and resumed(folder) >= n
                ),
                process,
            )
            # Within a step or the save that follows every third.
            time.sleep(draw.uniform(0, 0.2))
        else:
            time.sleep(moment)
        assert process.poll() is None, "it ended before it was killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        if kind == "step" or resumes:
            resumes = resumed(folder) + 1
    program.finish(program.start(scenes, folder, *fields, devices=2), folder)
    assert resumed(folder) >= times - 2
    program.assert_same_run(folder, whole_run)


def test_sigterm_saves_a_checkpoint_and_the_run_resumes_there(
    scenes, whole_run, tmp_path
):
    folder = tmp_path / "W"
    process = program.start(scenes, folder, *FIELDS, devices=2, pause=0.05)
    program.wait_for(lambda: program.last_step(folder) >= 6, process)
    process.send_signal(signal.SIGTERM)
    text = program.finish(process, folder, status=75)
    assert text.endswith(f"preempted; start again to resume in {folder}\n")
    saved = int(program.state(folder)["step"])
    assert 6 <= saved < 40
    text = program.finish(program.start(scenes, folder, *FIELDS, devices=2), folder)
    assert f"resuming at step {saved}" in text
    found, expected = program.state(folder), program.state(whole_run)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    ("said", "steps"),
    [("compiling the training step", range(1, 4)), ("evaluating", [40])],
)
def test_ctrl_c_saves_a_checkpoint_like_sigterm(scenes, tmp_path, said, steps):
    folder = tmp_path / "W"
    process = program.start(scenes, folder, *FIELDS, devices=2)
    program.wait_for(lambda: said in program.printed(folder), process)
    process.send_signal(signal.SIGINT)
    text = program.finish(process, folder, status=75)
    assert "interrupted: saving a checkpoint; press Ctrl-C again" in text
    assert text.endswith(f"preempted; start again to resume in {folder}\n")
    assert int(program.state(folder)["step"]) in steps


def test_ctrl_c_twice_ends_the_run_at_once(scenes, tmp_path):
    folder = tmp_path / "W"
    process = program.start(scenes, folder, *FIELDS, devices=2, pause=60)
    program.wait_for(lambda: "compiling" in program.printed(folder), process)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    program.wait_for(lambda: "interrupted" in program.printed(folder), process)
    process.send_signal(signal.SIGINT)
    text = program.finish(process, folder, status=130)
    assert time.monotonic() - begin < 30  # A step takes 60 seconds.
    assert "interrupted twice: no checkpoint" in text
    assert checkpoints.newest_step(folder) is None


@pytest.mark.parametrize("seconds", [2, 4, 6, 8, 10])
def test_ctrl_c_before_the_first_step_ends_without_a_crash(scenes, tmp_path, seconds):
    folder = tmp_path / "W"
    process = program.start(scenes, folder, *FIELDS, devices=2, own_cache=True)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    status = process.wait(timeout=program.LIMIT)
    # 130; -SIGINT while Python imports; 75 once the loop has begun; never SIGSEGV.
    assert status in (130, -signal.SIGINT, 75), program.printed(folder)
