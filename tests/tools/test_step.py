"""The flag --step of every tool that has it."""

import importlib
import shutil

import pytest

from borrow_det.__main__ import COMMANDS
from borrow_det.tools.common import cli
from borrow_det.workdir import best, checkpoints

# Flags of each tool besides --workdir, --step and --output.
TOOLS = {
    "evaluate": ("--split=val",),
    "predict": ("{scenes}/val_0.jpg",),
    "explain": ("{scenes}/val_0.jpg",),
    "export": (),
}


@pytest.fixture(scope="module")
def workdir(tiny_run, tmp_path_factory):
    """A run with checkpoints of steps 2 and 4, of which the first is the best."""
    folder = tmp_path_factory.mktemp("step") / "W"
    shutil.copytree(tiny_run.workdir, folder)
    best.write(folder, best.Best(2, "val", "AP_small", 0.5))
    return folder


@pytest.fixture
def run(workdir, scenes, tmp_path, monkeypatch):
    """A function: runs a tool until it restores, and returns the step it restores."""

    class RestoresError(Exception):
        pass

    def restore(folder, step):
        assert folder == str(workdir)
        raise RestoresError(step)

    def run(name, *flags):
        module = importlib.import_module(COMMANDS[name].module)
        arguments = [
            f"--workdir={workdir}",
            f"--output={tmp_path}/out.zip",
            *(argument.format(scenes=scenes) for argument in TOOLS[name]),
        ]
        monkeypatch.setattr(checkpoints, "restore_variables", restore)
        try:
            return cli.call(module.main, [name, *arguments, *flags])
        except RestoresError as error:
            return error.args

    return run


def test_the_tools_with_the_flag_are_those_of_this_file(capsys):
    found = set()
    for name, command in COMMANDS.items():
        if name == "train":
            continue
        with pytest.raises(SystemExit):
            importlib.import_module(command.module).main([name, "--help"])
        if "\n  --step\n" in capsys.readouterr().out:
            found.add(name)
    assert found == set(TOOLS)


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_takes_the_best_the_last_or_a_numbered_checkpoint(run, name, capsys):
    assert run(name) == (4,)
    for value, step in (("best", 2), ("last", 4), ("2", 2)):
        assert run(name, f"--step={value}") == (step,), value
    assert run(name, "--step=first") == 2
    assert "--step=first" in (err := capsys.readouterr().err)
    assert "it must be best, last or a number" in err


@pytest.mark.parametrize("name", TOOLS)
def test_checkpoints_are_listed_where_none_is_the_best(run, name, workdir, capsys):
    written = best.read(workdir)
    best.write(workdir, None)
    assert run(name, "--step=best") == 2
    best.write(workdir, written)
    assert capsys.readouterr().err.endswith("it has checkpoints of steps [2, 4]\n")
