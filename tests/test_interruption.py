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


@pytest.mark.parametrize("times", [4, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_as_if_it_never_was(
    scenes, whole_run, tmp_path, times
):
    seed = time.time_ns()
    draw = random.Random(seed)
    print("seed", seed)
    folder = tmp_path / "W"
    # When to kill each start: after a step, or after seconds, at whatever a start does
    # before a step. Of the steps each has its share of the run, three saves or more
    # from the one before, and the first the saves before it.
    share = (STEPS // 3 - 4) // (times - 2)
    saves = (4 + share * i + draw.randrange(share - 2) for i in range(times - 2))
    kills = [("step", 3 * save) for save in saves]
    for _ in range(2):
        kills.insert(draw.randrange(len(kills)), ("seconds", draw.uniform(0.5, 8)))
    for kind, moment in kills:
        process = program.start(scenes, folder, *FIELDS, devices=2, pause=0.02)
        if kind == "step":
            program.wait_for(lambda m=moment: program.last_step(folder) >= m, process)
            # Within a step or the save that follows every third.
            time.sleep(draw.uniform(0, 0.2))
        else:
            time.sleep(moment)
        assert process.poll() is None, "it ended before it was killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    text = program.finish(program.start(scenes, folder, *FIELDS, devices=2), folder)
    # On a busy machine a start may be killed before it says so.
    assert text.count("resuming at step") >= (times - 2) // 2
    program.assert_same_run(folder, whole_run)


def test_told_to_stop_it_saves_where_it_is(scenes, whole_run, tmp_path):
    folder = tmp_path / "W"
    process = program.start(scenes, folder, *FIELDS, devices=2, pause=0.05)
    program.wait_for(lambda: program.last_step(folder) >= 6, process)
    process.send_signal(signal.SIGTERM)
    text = program.finish(process, folder, status=75)
    assert text.endswith(f"preempted; start again to go on in {folder}\n")
    saved = int(program.state(folder)["step"])
    assert 6 <= saved < 40
    text = program.finish(program.start(scenes, folder, *FIELDS, devices=2), folder)
    assert f"resuming at step {saved}" in text
    found, expected = program.state(folder), program.state(whole_run)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
