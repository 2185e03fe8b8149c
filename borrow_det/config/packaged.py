"""Resolves the names of packaged configs and sweeps: `--config=quickstart`.

A flag's value is either the path of a Python file or the name of a file that is
installed with the package, in `borrow_det/configs` or `borrow_det/configs/sweeps`.
Arguments follow the first colon in both forms.
"""

import difflib
import functools
import os
import pathlib
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

from absl import flags
from ml_collections import config_flags

from borrow_det.errors import InputError
from borrow_det.io import paths

HELP = (
    "Run configuration: the name of a packaged config (quickstart, folder, ...) "
    "or the path of a Python file, with arguments after a colon; --config.FIELD=VALUE "
    "sets a field."
)
# The function that each kind of file defines.
_FUNCTIONS = {"config": "get_config", "sweep": "sweep"}
_FOLDERS = {"config": "", "sweep": "sweeps"}


def define_config(
    name: str,
    help_text: str,
    flag_values: flags.FlagValues = flags.FLAGS,
    argv: Sequence[str] | None = None,
) -> flags.FlagHolder:
    """Defines a flag that takes a packaged config's name or a config file's path.

    Args:
      name: the flag's name.
      help_text: its help text.
      flag_values: the set of flags to add it to.
      argv: program name and arguments, in which overrides of the config's fields
        (`--NAME.field=value`) are searched; default: `sys.argv`.

    Returns:
      The flag's holder, whose value is the ConfigDict.
    """
    holder = config_flags.DEFINE_config_file(
        name,
        None,
        help_text,
        flag_values=flag_values,
        sys_argv=None if argv is None else list(argv),
    )
    flag_values[name].parser = _ConfigParser(name)
    return holder


def config_file(value: str) -> str:
    """Resolves a --config value to a path, with the arguments that follow it.

    Args:
      value: `PATH`, `NAME`, `PATH:ARGUMENTS` or `NAME:ARGUMENTS`.

    Raises:
      InputError: it is neither a file nor the name of a packaged config.
    """
    path, colon, arguments = value.partition(":")
    return f"{_find('config', path)}{colon}{arguments}"


def sweep_file(value: str | os.PathLike) -> pathlib.Path:
    """Resolves a --sweep value to the path of a file.

    Raises:
      InputError: it is neither a file nor the name of a packaged sweep.
    """
    return _find("sweep", os.fspath(value))


def names(kind: str) -> list[str]:
    """Returns the sorted names of the packaged files of a kind, config or sweep."""
    return sorted(_files(kind))


class _ConfigParser(config_flags.config_flags.ConfigFileFlagParser):
    """Parses the value of a flag that `define_config` has made."""

    def parse(self, path: str) -> Any:
        return super().parse(config_file(path))


def _find(kind: str, value: str) -> pathlib.Path:
    path = pathlib.Path(paths.expand_home(value))
    if path.is_file():
        return path
    known = _files(kind)
    if value in known:
        return known[value]
    if path.stem in known:
        hint = f"the packaged one is --{kind}={path.stem}"
    else:
        close = difflib.get_close_matches(path.stem, known, n=1)
        guess = f"did you mean {close[0]}? " if close else ""
        hint = f"{guess}the packaged ones are {', '.join(sorted(known))}"
    raise InputError(f"--{kind}={value} is not a file; {hint}")


@functools.cache
def _files(kind: str) -> dict[str, pathlib.Path]:
    folder = pathlib.Path(str(resources.files("borrow_det.configs"))) / _FOLDERS[kind]
    defines = re.compile(rf"^def {_FUNCTIONS[kind]}\(", re.MULTILINE)
    return {
        path.stem: path
        for path in folder.glob("*.py")
        if defines.search(path.read_text(encoding="utf-8"))
    }
