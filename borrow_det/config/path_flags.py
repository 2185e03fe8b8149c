"""Flags that hold the path of a file or folder."""

from typing import Any

from absl import flags

from borrow_det.io import paths


def define_path(
    name: str,
    default: str | None,
    help_text: str,
    *,
    required: bool = False,
    flag_values: flags.FlagValues = flags.FLAGS,
) -> flags.FlagHolder:
    """Defines a flag whose value is a path, with `~` at its start for the home folder.

    A shell expands `~` at the start of a word only, not in `--workdir=~/runs/mine`.

    Args:
      name: name of the flag.
      default: path; None for a flag that is required or may be absent.
      help_text: help text of the flag.
      required: whether the command line must have the flag.
      flag_values: set of flags to add it to.

    Returns:
      The holder of the flag; its value is a str or None.
    """
    return flags.DEFINE(
        PathParser(),
        name,
        default,
        help_text,
        flag_values,
        required=required,
    )


class PathParser(flags.ArgumentParser):
    """Parses the value of a flag that `define_path` has made."""

    def parse(self, argument: Any) -> str:
        """Returns the path; raises InputError for `~USER` of an unknown user.

        Without the check, an empty path would be the current folder.
        """
        if not argument:
            raise ValueError("the path is empty: name a file or folder")
        return paths.expand_home(argument)
