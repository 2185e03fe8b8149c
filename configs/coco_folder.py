"""The former name of configs/folder.py, which has the command and the arguments."""

import ml_collections

from borrow_det.configs import folder


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the configuration of configs/folder.py."""
    return folder.get_config(arg)
