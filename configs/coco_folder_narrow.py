"""The former name of configs/folder_narrow.py, which has the command."""

import ml_collections

from borrow_det.configs import folder_narrow


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the configuration of configs/folder_narrow.py."""
    return folder_narrow.get_config(arg)
