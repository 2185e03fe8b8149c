"""Parses command lines that name a config; every mistake becomes an InputError.

absl and ml_collections report wrong flags, unknown fields and broken config files in
half a dozen ways, some of which bury the message of the config file itself.
"""

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from borrow_det.config import other_tools, renamed_fields, run_length
from borrow_det.errors import InputError
from borrow_det.io import paths

_WIDTH = 80
# Fields of a configuration that hold the path of a folder.
PATH_FIELDS = ("init_from", "dataset.path", "dataset.data_dir")
# absl's addition to the help text of flags that may be given several times.
_REPEAT = "; repeat this option to specify a list of values"


def parse(flag_values: flags.FlagValues, argv: Sequence[str]) -> list[str]:
    """Parses program name and arguments; returns the ones that are not flags.

    Raises:
      InputError: an unknown flag, a bad value, a required flag missing, an unknown
        field or argument of a config.
    """
    try:
        return flag_values(argv)
    except (AttributeError, KeyError) as error:  # ml_collections' for unknown fields.
        raise InputError(_unknown_field(error)) from error
    except flags.UnrecognizedFlagError as error:
        told = other_tools.answer(argv[1:], list(flag_values))
        raise InputError(told or str(error)) from error
    except flags.Error as error:
        raise InputError(str(_input_error(error) or error)) from error


def asks_for_help(argv: Sequence[str]) -> bool:
    """Returns whether the arguments contain --help or -h."""
    return "--help" in argv[1:] or "-h" in argv[1:]


def help_text(description: str, all_flags: Iterable[flags.Flag]) -> str:
    """Returns the text of --help.

    Args:
      description: text above the flags.
      all_flags: the flags, listed by name, required ones first.
    """
    ordered = sorted(all_flags, key=lambda flag: (not _is_required(flag), flag.name))
    blocks = [_describe(flag) for flag in ordered]
    return "\n".join([description.strip(), "", "Flags:", *blocks])


def resolved(config: flags.Flag) -> ml_collections.ConfigDict:
    """Returns a copy of the config that a flag holds, with references resolved.

    A `~` at the start of a path becomes the home folder. Of num_steps and num_epochs,
    the one that the command line sets replaces the other.

    Args:
      config: the flag that `packaged.define_config` has defined.

    Raises:
      InputError: the config's file cannot be read, or a path names the home folder of
        no user.
    """
    value: Any = config.value
    try:
        complete = _with_home(value.copy_and_resolve_references())
    except OSError as error:  # ml_collections keeps it until the value is used.
        # It reports one error three times; the innermost report names the file.
        reason = re.split(r"\[Errno \d+\] ", str(error))[-1]
        raise InputError(f"the config cannot be read: {reason}") from error
    return run_length.prefer_given(complete, config_flags.get_override_values(config))


def _with_home(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    fields = config.to_dict()
    for name in PATH_FIELDS:
        group, _, field = name.rpartition(".")
        path = (fields[group] if group else fields)[field]
        if path.startswith("~"):
            config.update_from_flattened_dict({name: paths.expand_home(path)})
    return config


def _input_error(error: BaseException | None) -> InputError | None:
    """Returns the innermost InputError in the chain of an exception, if any."""
    found = None
    while error is not None:
        found = error if isinstance(error, InputError) else found
        error = error.__context__
    return found


def _unknown_field(error: AttributeError | KeyError) -> str:
    inner = error.args[0]
    text = str(inner.args[0] if isinstance(inner, KeyError) else inner)
    # 'NAME' and a line: Did you mean "OTHER" instead of "NAME"?
    found = re.match(r"'([^']*)'(?:\sDid you mean \"([^\"]*)\")?", text)
    name, close = found.groups() if found else (text, None)
    hint = renamed_fields.find(name) or (close and f"did you mean {close}?")
    return f"the config has no field {name}; {hint or 'configs/base.py lists them all'}"


def _is_required(flag: flags.Flag) -> bool:
    # absl keeps this as a validator that refuses None.
    return any(not validator.checker(None) for validator in flag.validators)


def _describe(flag: flags.Flag) -> str:
    name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
    notes = [flag.parser.syntactic_help]
    if isinstance(flag, flags.MultiFlag):
        notes.append("may be repeated")
    if _is_required(flag):
        notes.append("required")
    elif flag.default_as_str and flag.default not in ("", [], None):
        notes.append(f"default: {flag.default_as_str.strip(chr(39))}")
    note = "; ".join(note for note in notes if note)
    text = " ".join(flag.help.split()).removesuffix(_REPEAT)
    text = f"{text} ({note})" if note else text
    body = textwrap.fill(
        text,
        _WIDTH,
        initial_indent=" " * 6,
        subsequent_indent=" " * 6,
        break_on_hyphens=False,
    )
    return f"  {name}\n{body}"
