"""Flags, one-line errors and exit status, shared by the command lines of all tools.

Every tool has a separate set of flags instead of absl's global one, so that several
tools can be imported into one process.
"""

import os
import pathlib
import sys
from collections.abc import Callable, Sequence

from absl import flags

from borrow_det.config import command_line, other_tools, path_flags
from borrow_det.errors import InputError
from borrow_det.io import paths, streams
from borrow_det.workdir.best import BEST, LAST

_OUTPUT = "Local folder for the results."


def parse(
    flag_values: flags.FlagValues, argv: Sequence[str], description: str
) -> list[str]:
    """Parses a command line into `flag_values`.

    Args:
      flag_values: the tool's flags.
      argv: program name and arguments.
      description: text that --help prints above the flags.

    Returns:
      The arguments that are not flags.

    Raises:
      InputError: an unknown flag, a bad value, a required flag missing.
      SystemExit: --help is among the arguments.
    """
    if command_line.asks_for_help(argv):
        every = [flag_values[name] for name in flag_values]
        print(command_line.help_text(description, every))
        raise SystemExit(0)
    try:
        arguments = command_line.parse(flag_values, argv)[1:]
        for argument in arguments:
            told = other_tools.answer_without_dashes(argument, list(flag_values))
            if told is not None and not os.path.exists(argument):
                raise InputError(told)
    except InputError as error:
        raise InputError(f"{error} (--help lists the flags)") from error
    return arguments


def run_flags(output: str = _OUTPUT) -> flags.FlagValues:
    """Returns the flags of a tool that applies a trained run: workdir, output, step.

    Args:
      output: help text of --output.
    """
    values = flags.FlagValues()
    define_workdir(values)
    path_flags.define_path(
        "output",
        None,
        output,
        required=True,
        flag_values=values,
    )
    define_step(values)
    return values


def define_workdir(flag_values: flags.FlagValues) -> None:
    """Defines --workdir, the trained run that a tool applies."""
    path_flags.define_path(
        "workdir",
        None,
        "Work directory of the trained run.",
        required=True,
        flag_values=flag_values,
    )


def define_step(flag_values: flags.FlagValues) -> None:
    """Defines --step, the checkpoint that a tool loads: "best", "last" or a number."""
    flags.DEFINE(
        _StepParser(),
        "step",
        LAST,
        "Checkpoint to load: the best one (checkpoint_best), the last one, or that of "
        "a step.",
        flag_values=flag_values,
        serializer=flags.ArgumentSerializer(),
    )


class _StepParser(flags.ArgumentParser):
    """Parses the value of --step."""

    syntactic_help = "best, last or a number"

    def parse(self, argument: str | int) -> str | int:
        if argument in (BEST, LAST):
            return argument
        try:
            return int(argument)
        except ValueError:
            raise ValueError(f"it must be {self.syntactic_help}") from None

    def flag_type(self) -> str:
        return "step"


def define_max_pixels(flag_values: flags.FlagValues) -> None:
    """Defines --max_pixels, the largest image that a tool reads."""
    flags.DEFINE_integer(
        "max_pixels",
        0,
        "Number of pixels above which an image is refused; 0: Pillow's limit against "
        "decompression bombs (179 million).",
        0,
        flag_values=flag_values,
    )


def refuse_arguments(arguments: Sequence[str]) -> None:
    """Refuses arguments of a tool that takes flags only.

    Raises:
      InputError: names the first argument.
    """
    if arguments:
        raise InputError(f"unexpected argument {arguments[0]!r}")


def output_folder(output: str) -> pathlib.Path:
    """Returns the folder of --output, which must be local: videos are written there.

    Raises:
      InputError: it is in a bucket.
    """
    return paths.local_path(output, "--output")


def call(main: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Runs a tool's main and returns its exit status.

    An InputError becomes one line on stderr and status 2, Ctrl-C a line and status 130.
    Output takes any text, and a reader that closes the pipe does not end the tool.
    """
    streams.prepare()
    try:
        return main(argv)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except InputError as error:
        line = " ".join(str(error).split())
        print(f"error: {line}", file=sys.stderr)
        return 2
