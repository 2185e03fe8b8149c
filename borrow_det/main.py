"""Trains and evaluates: `python -m borrow_det.main --config=FILE --workdir=DIR`."""

import sys
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from borrow_det import train
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
        config = _CONFIG.value.copy_and_resolve_references()
    except OSError as error:  # ml_collections keeps it until the value is used.
        _refuse(str(error))
    try:
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
        return flags.FLAGS(argv)
    except (AttributeError, KeyError) as error:  # ml_collections', of unknown fields.
        inner = error.args[0]
        field = inner.args[0] if isinstance(inner, KeyError) else inner
        _refuse(f"the config has no field {field}; configs/base.py lists them all")
    except flags.Error as error:
        _refuse(str(_input_error(error) or error))


def _input_error(error: BaseException | None) -> InputError | None:
    """What a config file itself complained of, beneath what was made of it."""
    found = None
    while error is not None:
        found = error if isinstance(error, InputError) else found
        error = error.__context__
    return found


def _refuse(message: str, status: int = 2) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
