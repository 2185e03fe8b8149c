"""What the tools' command lines share: flags, one-line errors, exit status.

Every tool has its own set of flags instead of absl's global one, so that several
tools can be imported into one process.
"""

import pathlib
import sys
from collections.abc import Callable, Sequence

from absl import flags

from borrow_det.config import command_line
from borrow_det.errors import InputError
from borrow_det.io import paths


def parse(
    flag_values: flags.FlagValues, argv: Sequence[str], description: str
) -> list[str]:
    """Parses a command line into `flag_values`.

    Args:
      flag_values: the tool's own flags.
      argv: program name and arguments.
      description: what --help prints above the flags.

    Returns:
      The arguments that are not flags.

    Raises:
      InputError: an unknown flag, a bad value, a required flag missing.
      SystemExit: --help was asked for.
    """
    if "--help" in argv[1:] or "-h" in argv[1:]:
        print(f"{description.strip()}\n\nFlags:\n{flag_values.get_help()}")
        raise SystemExit(0)
    try:
        return command_line.parse(flag_values, argv)[1:]
    except InputError as error:
        raise InputError(f"{error} (--help lists the flags)") from error


def run_flags() -> flags.FlagValues:
    """The flags of a tool that looks at images with a run: workdir, output, step."""
    values = flags.FlagValues()
    text = {"flag_values": values}
    flags.DEFINE_string("workdir", None, "The trained run.", required=True, **text)
    flags.DEFINE_string("output", None, "Where results go.", required=True, **text)
    flags.DEFINE_integer("step", None, "Of the checkpoint; the newest one.", **text)
    return values


def output_folder(output: str) -> pathlib.Path:
    """The folder that --output names: one on a disk, where videos and pages are made.

    Raises:
      InputError: it lies in a bucket.
    """
    return paths.local_path(output, "--output")


def call(main: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Runs a tool's main; an InputError becomes a line on stderr and status 2.

    Ctrl-C becomes a line and status 130.
    """
    try:
        return main(argv)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except InputError as error:
        line = " ".join(str(error).split())
        print(f"error: {line}", file=sys.stderr)
        return 2
