"""Trains and evaluates: `python -m borrow_det.main --config=FILE --workdir=DIR`."""

import sys
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from borrow_det import command_line, train
from borrow_det.errors import InputError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "File of the run's configuration, with its arguments."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for checkpoints, metrics and pictures."
)
flags.mark_flags_as_required(["config", "workdir"])


def main(arguments: list[str]) -> None:
    """Runs what the flags say; wrong input ends in one line and status 2.

    A loss that is not finite ends in one line, too, and status 1; Ctrl-C in 130.
    """
    if len(arguments) > 1:
        _refuse(f"unknown arguments: {' '.join(arguments[1:])}")
    logging.set_verbosity(logging.WARNING)
    try:
        config = command_line.resolved(_CONFIG)
        train.train_and_evaluate(config, _WORKDIR.value)
    except InputError as error:
        _refuse(str(error))
    except FloatingPointError as error:
        _refuse(str(error), status=1)
    except KeyboardInterrupt:
        message = f"interrupted; start again to resume in {_WORKDIR.value}"
        _refuse(message, status=130)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; what is wrong with it ends in one line and status 2."""
    try:
        return command_line.parse(flags.FLAGS, argv)
    except InputError as error:
        _refuse(str(error))


def _refuse(message: str, status: int = 2) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
