"""Trains and evaluates: `python -m borrow_det.main --config=FILE --workdir=DIR`."""

import sys

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
    """Runs what the flags say; wrong input ends in one line and status 2."""
    if len(arguments) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(arguments[1:])}")
    logging.set_verbosity(logging.WARNING)
    try:
        train.train_and_evaluate(_CONFIG.value, _WORKDIR.value)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main)
