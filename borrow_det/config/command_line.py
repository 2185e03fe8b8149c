"""Reading command lines that name a config file; what is wrong becomes an InputError.

absl and ml_collections complain of wrong flags, unknown fields and bad files in half a
dozen ways, some of which keep what the config file itself said beneath.
"""

import re
from collections.abc import Sequence

import ml_collections
from absl import flags

from borrow_det.errors import InputError


def parse(flag_values: flags.FlagValues, argv: Sequence[str]) -> list[str]:
    """Parses program name and arguments; returns those that are no flags.

    Raises:
      InputError: an unknown flag, a bad value, a required flag missing, an unknown
        field or argument of a config.
    """
    try:
        return flag_values(argv)
    except (AttributeError, KeyError) as error:  # ml_collections', of unknown fields.
        inner = error.args[0]
        field = inner.args[0] if isinstance(inner, KeyError) else inner
        raise InputError(
            f"the config has no field {field}; configs/base.py lists them all"
        ) from error
    except flags.Error as error:
        raise InputError(str(_input_error(error) or error)) from error


def resolved(config: flags.FlagHolder) -> ml_collections.ConfigDict:
    """The config that a flag holds, references resolved, as a copy.

    Args:
      config: what DEFINE_config_file returned.

    Raises:
      InputError: the config's file cannot be read.
    """
    try:
        return config.value.copy_and_resolve_references()
    except OSError as error:  # ml_collections keeps it until the value is used.
        # Of its three reports of one error the innermost names the file.
        reason = re.split(r"\[Errno \d+\] ", str(error))[-1]
        raise InputError(f"the config cannot be read: {reason}") from error


def _input_error(error: BaseException | None) -> InputError | None:
    """What a config file itself complained of, beneath what was made of it."""
    found = None
    while error is not None:
        found = error if isinstance(error, InputError) else found
        error = error.__context__
    return found
