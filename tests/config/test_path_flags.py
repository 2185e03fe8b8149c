"""A ~ at the start of a path, in every flag of every command and in every field."""

import importlib
import inspect
import re

import pytest
from absl import flags

from borrow_det import __main__ as command
from borrow_det import main
from borrow_det.config import command_line, packaged, path_flags
from borrow_det.configs import base
from borrow_det.errors import InputError

# Words in the help of a flag that holds a path; flags and fields that hold none.
_PATH_WORDS = re.compile(r"\b(files?|folders?|directory|path|DIR)\b", re.IGNORECASE)
_NO_PATHS = {"split", "platforms"}
# Empty by default.
_NO_PATH_FIELDS = {
    *("dataset.group", "schedule.extend", "references.field", "evaluation.tiles"),
}


def flags_of(name):
    """The flags of a command."""
    module = importlib.import_module(command.COMMANDS[name].module)
    if name == "train":
        holders = [v for v in vars(main).values() if isinstance(v, flags.FlagHolder)]
        return {holder.name: flags.FLAGS[holder.name] for holder in holders}
    arguments = inspect.signature(module._flags).parameters
    values = module._flags(*([name],) * len(arguments))
    return {flag: values[flag] for flag in values}


@pytest.mark.parametrize("name", command.COMMANDS)
def test_every_flag_that_holds_a_path_takes_the_home_folder(name, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    taken = 0
    for flag in flags_of(name).values():
        is_text = type(flag.parser) in (flags.ArgumentParser, flags.ListParser)
        if isinstance(flag.parser, path_flags.PathParser):
            assert flag.parser.parse("~/x") == "/home/me/x"
            taken += 1
        elif is_text and flag.name not in _NO_PATHS:
            assert not _PATH_WORDS.search(flag.help), (
                f"--{flag.name} of {name} seems to hold a path: define it by "
                "path_flags.define_path, or list it here"
            )
    # A benchmark and a compilation take nothing but the name of a config.
    assert taken >= 1 or name in ("benchmark", "aot-compile")


def test_a_flag_that_names_an_unknown_user_is_refused():
    values = flags.FlagValues()
    path_flags.define_path("output", None, "Folder.", flag_values=values)
    with pytest.raises(InputError, match="there is no user nobody_here"):
        command_line.parse(values, ["tool", "--output=~nobody_here/x"])


def test_an_empty_path_is_not_the_current_folder():
    values = flags.FlagValues()
    path_flags.define_path("output", None, "Folder.", flag_values=values)
    with pytest.raises(InputError, match="flag --output=: the path is empty: name"):
        command_line.parse(values, ["tool", "--output="])


@pytest.fixture
def resolved(tmp_path, monkeypatch):
    """A function that resolves the config of a command line's arguments."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")

    def resolved(*arguments):
        argv = ["tool", *arguments]
        values = flags.FlagValues()
        packaged.define_config("config", "Config.", values, argv)
        command_line.parse(values, argv)
        return command_line.resolved(values["config"])

    return resolved


def text_fields(config, group=""):
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from text_fields(value, f"{group}{name}.")
        elif isinstance(value, str):
            yield group + name, value


def test_every_text_field_without_a_default_is_known_to_be_a_path_or_not():
    empty = [name for name, value in text_fields(base.get_config()) if not value]
    unknown = set(empty) - {*command_line.PATH_FIELDS} - _NO_PATH_FIELDS
    assert not unknown
    assert {*command_line.PATH_FIELDS} <= {*empty}


@pytest.mark.parametrize("field", command_line.PATH_FIELDS)
def test_fields_that_hold_a_path_take_the_home_folder(resolved, tmp_path, field):
    config = resolved("--config=quickstart", f"--config.{field}=~/x")
    assert dict(text_fields(config))[field] == str(tmp_path / "x")
    with pytest.raises(InputError, match="there is no user nobody_here"):
        resolved("--config=quickstart", f"--config.{field}=~nobody_here/x")


def test_a_config_file_and_its_path_argument_take_the_home_folder(resolved, tmp_path):
    source = packaged.config_file("coco_folder")
    link = tmp_path / "mine.py"
    link.symlink_to(source)
    config = resolved("--config=~/mine.py:path=~/images")
    assert config.dataset.path == str(tmp_path / "images")
    assert packaged.sweep_file("~/mine.py") == link
