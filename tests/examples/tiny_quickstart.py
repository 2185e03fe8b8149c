"""The config of a run of seconds with the splits of the notebook."""

import ml_collections

from tests import tiny_config


def get_config(folder: str) -> ml_collections.ConfigDict:
    """Returns tests/tiny_config.py on a folder of scenes, evaluated on three splits."""
    config = tiny_config.get_config(folder)
    config.dataset.eval_splits = ("validation", "swapped", "alone")
    return config
