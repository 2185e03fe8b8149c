"""The schedule of a run that gets more steps than it has finished."""

import pytest

from borrow_det.configs import base
from borrow_det.errors import InputError
from borrow_det.optimizer import rate_at
from borrow_det.workdir import extension, metadata

CLASSES = metadata.Classes(("cat",), (1,))


def make_config(num_steps, **schedule):
    """A cosine from 0.1, after a warm-up of 10 steps."""
    config = base.get_config()
    config.num_steps = num_steps
    config.optimizer.learning_rate = 0.1
    config.schedule.update({"name": "cosine", "warmup_steps": 10} | schedule)
    return config


@pytest.fixture
def resumed(tmp_path):
    """A function: the config and the line of a run that resumes at a step.

    It stores the config, as a run does.
    """

    def resumed(config, step):
        folder, line = tmp_path / "checkpoints" / str(step), ""
        if (tmp_path / "config.json").exists():
            folder.mkdir(exist_ok=True)
            (folder / "_CHECKPOINT_METADATA").write_text("{}")
            config, line = extension.with_restarts(config, tmp_path, rate_at)
        metadata.prepare(tmp_path, config, CLASSES, {})
        folder.mkdir(parents=True, exist_ok=True)
        return config, line

    return resumed


def test_a_finished_run_with_more_steps_asks_for_the_schedule(resumed, tmp_path):
    resumed(make_config(100), 100)
    stored = (tmp_path / "config.json").read_text()
    with pytest.raises(InputError) as error:
        resumed(make_config(200), 100)
    # The cosine of 200 steps has done 90 of its 190 steps after the warm-up.
    assert str(error.value) == (
        f"{tmp_path} has finished its 100 steps, and the learning rate of its schedule "
        "is 0 at the next: to train to 200 steps, set --config.schedule.extend="
        "restart, which starts warm-up and schedule anew over the 100 added steps "
        "(0.01 at the next step), or continue, which follows the schedule of a run of "
        "200 steps from there on (0.0541 at the next step)"
    )
    assert (tmp_path / "config.json").read_text() == stored


@pytest.mark.parametrize(
    ("extend", "restarts", "rate"),
    [("restart", (100,), "0.01"), ("continue", (), "0.0541")],
)
def test_the_schedule_is_the_chosen_one_in_later_starts_too(
    resumed, extend, restarts, rate
):
    resumed(make_config(100), 100)
    config, line = resumed(make_config(200, extend=extend), 100)
    assert config.schedule.restarts == restarts
    assert line == (
        f"extending the run by 100 steps to 200 (schedule.extend={extend}): the "
        f"learning rate at the next step is {rate} in place of 0"
    )
    # Killed before its first step, interrupted later, and finished; with the field or
    # without it.
    for step in (100, 150, 200):
        for later in (make_config(200, extend=extend), make_config(200)):
            config, line = resumed(later, step)
            assert (config.schedule.restarts, line) == (restarts, "")


def test_a_run_is_extended_several_times(resumed):
    resumed(make_config(100), 100)
    for steps, extend, restarts in (
        (200, "restart", (100,)),
        (300, "restart", (100, 200)),
        (400, "continue", (100, 200)),
    ):
        config, _ = resumed(make_config(steps, extend=extend), steps - 100)
        assert config.schedule.restarts == restarts
    # The last part is the schedule of a run of 200 steps.
    assert rate_at(config, 300) == pytest.approx(rate_at(make_config(200), 100))


def test_restarts_of_a_config_are_kept_before_those_of_an_extension(resumed):
    resumed(make_config(100, restarts=(50,)), 100)
    longer = make_config(200, restarts=(50,), extend="restart")
    assert resumed(longer, 100)[0].schedule.restarts == (50, 100)
    assert resumed(longer, 150)[0].schedule.restarts == (50, 100)
    other = make_config(200, restarts=(60,))
    assert resumed(other, 150)[0].schedule.restarts == (60,)


def test_an_unfinished_run_says_what_happens_to_the_rate(resumed):
    resumed(make_config(100), 55)
    config, line = resumed(make_config(190, extend="restart"), 55)
    assert config.schedule.restarts == ()
    assert line == (
        "schedule.extend=restart changes nothing, as the run is at step 55 of 100 and "
        "not finished; num_steps was 100 and is now 190: the learning rate at the next "
        "step is 0.0854 in place of 0.05"
    )


@pytest.mark.parametrize("num_steps", [0, 50, 100])
def test_a_run_without_more_steps_is_not_asked(resumed, num_steps):
    resumed(make_config(100), 100)
    assert resumed(make_config(num_steps), 100)[1] == ""


def test_initial_parameters_that_were_evaluated_are_trained_from_the_start(resumed):
    resumed(make_config(0), 0)
    config, line = resumed(make_config(100), 0)
    assert (config.schedule.restarts, line) == ((), "")


def test_unknown_values_are_refused(resumed):
    resumed(make_config(100), 100)
    with pytest.raises(InputError, match=r"schedule\.extend is 'again'; .*'restart'"):
        resumed(make_config(200, extend="again"), 100)
