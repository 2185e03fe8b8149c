"""Runs that are ended from outside, as processes of their own, and started again."""

import random
import signal
import time

import jax
import numpy as np
import pytest

from tests import program

STEPS = 120
FIELDS = (
    *(f"num_steps={STEPS}", "eval_every=40", "checkpoint_every=3", "log_every=3"),
    "ema_decay=0.9",
)


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
    """How many starts have said that they resume."""
    return program.printed(folder).count("resuming at step")


@pytest.mark.parametrize("times", [4, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_as_if_it_never_was(
    scenes, whole_run, tmp_path, times
):
    seed = time.time_ns()
    draw = random.Random(seed)
    print("seed", seed)
    folder = tmp_path / "W"
    # When to kill each start: after a step that has whole saves behind it (so that the
    # next start resumes), or after seconds, at whatever a start does before a step.
    steps = sorted(draw.sample(range(4, STEPS // 3), times - 2))
    kills = [("step", 3 * step) for step in steps]
    for _ in range(2):
        kills.insert(draw.randrange(len(kills)), ("seconds", draw.uniform(0.5, 8)))
    resumes = 0  # What must have been printed before the next kill after a step.
    for kind, moment in kills:
        process = program.start(scenes, folder, *FIELDS, devices=2, pause=0.02)
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
    program.finish(program.start(scenes, folder, *FIELDS, devices=2), folder)
    assert resumed(folder) >= times - 2
    program.assert_same_run(folder, whole_run)


def test_told_to_stop_it_saves_where_it_is(scenes, whole_run, tmp_path):
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
