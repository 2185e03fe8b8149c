"""The command line: what it passes on, and how it refuses."""

import errno
import pathlib
import sys

import pytest
from absl import flags, logging
from absl.testing import flagsaver

from borrow_det import main, train
from borrow_det.errors import InputError, PreemptedError

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"


@pytest.fixture(autouse=True)
def restored_flags():
    """Leaves flags and the log's level as they were."""
    level = logging.get_verbosity()
    with flagsaver.flagsaver():
        yield
    logging.set_verbosity(level)
    flags.FLAGS.unparse_flags()


@pytest.fixture
def run(monkeypatch):
    """A function: what the program does with these arguments."""

    def run(*arguments):
        argv = ["main", *arguments]
        # Where ml_collections looks for the fields that are set.
        monkeypatch.setattr(sys, "argv", argv)
        main.main(main.parse_flags(argv))

    return run


def config_flag(name):
    return f"--config={CONFIGS / name}"


def test_config_arguments_and_fields_reach_the_run(run, monkeypatch):
    runs = []
    monkeypatch.setattr(train, "train_and_evaluate", lambda *run: runs.append(run))
    run(
        config_flag("quickstart.py:borrow=False"),
        "--workdir=W",
        "--config.num_steps=7",
        "--config.borrow.levels=(0,1)",
    )
    ((config, workdir, profile),) = runs
    assert (workdir, profile) == ("W", "")
    assert config.num_steps == 7
    assert config.borrow.levels == (0, 1)
    assert not config.borrow.enabled
    assert config.input_size == (192, 192)


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["base.py", "--config.optimizer.learning_rat=1"], "learning_rat"),
        (["base.py", "--config.optimiser.name=sgd"], "optimiser"),
        (["base.py", "--config.num_steps=many"], "num_steps"),
        (["quickstart.py:borow=False"], "borow"),
        (["quickstart.py:borrow=maybe"], "maybe"),
        (["folder.py"], "path"),
        (["absent.py"], "absent.py"),
        (["base.py", "--wokdir=W"], "wokdir"),
        (["base.py", "surplus"], "surplus"),
    ],
)
def test_a_wrong_command_line_ends_in_one_line(
    run, monkeypatch, capsys, arguments, culprit
):
    def never(*_):
        raise AssertionError("the run was started")

    monkeypatch.setattr(train, "train_and_evaluate", never)
    name, *rest = arguments
    with pytest.raises(SystemExit) as stop:
        run(config_flag(name), "--workdir=W", *rest)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert culprit in message
    assert "Unknown command line flag 'config" not in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("dataset.path: no\nsuch folder"), 2),
        (FloatingPointError("loss is nan"), 1),
    ],
)
def test_expected_errors_end_in_one_line_and_a_status(
    run, monkeypatch, capsys, error, status
):
    def fail(*_):
        raise error

    monkeypatch.setattr(train, "train_and_evaluate", fail)
    with pytest.raises(SystemExit) as stop:
        run(config_flag("base.py"), "--workdir=W")
    assert stop.value.code == status
    message = " ".join(str(error).split())
    assert capsys.readouterr().err == f"error: {message}\n"


def test_a_full_disk_is_named(run, monkeypatch, capsys):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left", "W/metrics.jsonl")

    monkeypatch.setattr(train, "train_and_evaluate", fail)
    with pytest.raises(SystemExit) as stop:
        run(config_flag("base.py"), "--workdir=W")
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "No space left: 'W/metrics.jsonl': make room there" in message
    assert message.count("\n") == 1


def test_preemption_is_reported_with_status_75(run, monkeypatch, capsys):
    def fail(*_):
        raise PreemptedError

    monkeypatch.setattr(train, "train_and_evaluate", fail)
    with pytest.raises(SystemExit) as stop:
        run(config_flag("base.py"), "--workdir=W")
    assert stop.value.code == 75
    assert capsys.readouterr().err == "preempted; start again to resume in W\n"


@pytest.mark.parametrize("error", [ZeroDivisionError, FileNotFoundError])
def test_a_bug_keeps_its_traceback(run, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(train, "train_and_evaluate", fail)
    with pytest.raises(error):
        run(config_flag("base.py"), "--workdir=W")


def test_missing_workdir_flag_is_named(run, capsys):
    with pytest.raises(SystemExit) as stop:
        run(config_flag("base.py"))
    assert stop.value.code == 2
    assert "workdir" in capsys.readouterr().err
