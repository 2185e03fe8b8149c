"""The length of a run, by steps or by epochs."""

import pytest

from borrow_det.config import command_line, packaged, run_length, validate
from borrow_det.configs import base
from borrow_det.errors import InputError


def parsed(*fields, config="quickstart"):
    """The config of a command line: quickstart has 480 steps of 8 images."""
    from absl import flags

    values = flags.FlagValues()
    argv = ["train", f"--config={config}", *(f"--config.{field}" for field in fields)]
    packaged.define_config("config", "", values, argv)
    command_line.parse(values, argv)
    return command_line.resolved(values["config"])


@pytest.fixture
def file_of_epochs(tmp_path):
    """A config file that sets num_epochs."""
    path = tmp_path / "epochs.py"
    path.write_text(
        "from borrow_det.configs import base\n"
        "def get_config():\n"
        "  config = base.get_config()\n"
        "  config.num_steps, config.num_epochs = -1, 3\n"
        "  return config\n"
    )
    return path


@pytest.mark.parametrize(
    ("fields", "images", "steps"),
    [
        ((), 100, 480),
        (("num_epochs=2",), 100, 25),
        (("num_epochs=2",), 101, 26),  # 25.25, rounded up.
        (("num_epochs=0.1",), 80, 1),
        (("num_epochs=2.2",), 200, 55),  # Not 56, by the error of a binary fraction.
        (("num_epochs=0.001",), 80, 1),
        (("num_epochs=2", "batch_size=20"), 100, 10),
        (("num_epochs=0",), 100, 480),
        (("num_steps=7",), 100, 7),
        (("num_steps=0",), 100, 0),
    ],
)
def test_the_command_line_chooses_between_steps_and_epochs(fields, images, steps):
    config = parsed(*fields)
    run_length.check(config)
    found = run_length.with_steps(config, images)
    assert (found.num_steps, found.num_epochs) == (steps, 0.0)
    run_length.check(found)


def test_steps_of_the_command_line_replace_the_epochs_of_a_file(file_of_epochs):
    config = parsed(config=file_of_epochs)
    validate.check_fields(config)
    assert run_length.with_steps(config, 320).num_steps == 30
    config = parsed("num_steps=7", config=file_of_epochs)
    assert run_length.with_steps(config, 320).num_steps == 7
    config = parsed("num_epochs=5", config=file_of_epochs)
    assert run_length.with_steps(config, 320).num_steps == 50


@pytest.mark.parametrize(
    ("steps", "epochs", "message"),
    [
        (480, 2.0, "num_steps is 480 and num_epochs is 2, but only one of them can be"),
        (0, 2.0, "num_steps is 0 and num_epochs is 2"),
        (-2, 2.0, "num_steps is -2 and num_epochs is 2"),
        (-1, 0.0, "num_steps is -1; it must be at least 0, or num_epochs above 0"),
        (-1, -1.0, "num_epochs is -1.0; it must be a number of at least 0"),
        (-1, float("inf"), "num_epochs is inf; it must be a number"),
        (-1, float("nan"), "num_epochs is nan; it must be a number"),
    ],
)
def test_both_and_none_are_refused(steps, epochs, message):
    config = base.get_config()
    config.num_steps, config.num_epochs = steps, epochs
    with pytest.raises(InputError, match=f"^{message}"):
        validate.check_fields(config)


def test_both_on_a_command_line_are_refused():
    with pytest.raises(InputError, match="num_steps is 7 and num_epochs is 2"):
        run_length.check(parsed("num_steps=7", "num_epochs=2"))


def test_the_length_is_printed_in_steps_and_epochs():
    config = base.get_config()
    config.num_steps, config.batch_size = 1170, 8
    assert run_length.describe(config, 312) == (
        "1,170 steps of 8 images: 30 epochs of 312 images"
    )
