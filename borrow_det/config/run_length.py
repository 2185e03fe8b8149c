"""The length of a run: `num_steps`, or `num_epochs` from which it follows."""

import math
from collections.abc import Collection

import ml_collections

from borrow_det.errors import InputError

_FOLLOWS = -1  # num_steps of a config that sets num_epochs.


def prefer_given(
    config: ml_collections.ConfigDict, given: Collection[str]
) -> ml_collections.ConfigDict:
    """Returns a config in which one of the two fields replaces the other.

    Args:
      config: the configuration.
      given: names of the fields that the command line sets, which precede those of the
        config's file. If it sets both, `check` refuses them.
    """
    if "num_epochs" in given and "num_steps" not in given and config.num_epochs:
        return _changed(config, num_steps=_FOLLOWS)
    if "num_steps" in given and "num_epochs" not in given:
        return _changed(config, num_epochs=0.0)
    return config


def check(config: ml_collections.ConfigDict) -> None:
    """Checks that exactly one of the two fields is set.

    Raises:
      InputError: both are set or none.
    """
    steps, epochs = config.num_steps, config.num_epochs
    if not (isinstance(epochs, int | float) and 0 <= epochs < math.inf):
        raise InputError(f"num_epochs is {epochs!r}; it must be a number of at least 0")
    if epochs and steps != _FOLLOWS:
        raise InputError(
            f"num_steps is {steps} and num_epochs is {epochs:g}, but only one of them "
            f"can be set: with num_steps={_FOLLOWS} it follows from num_epochs, and "
            "with num_epochs=0 it counts"
        )
    if not epochs and steps < 0:
        raise InputError(
            f"num_steps is {steps}; it must be at least 0, or num_epochs above 0"
        )


def with_steps(
    config: ml_collections.ConfigDict, images: int
) -> ml_collections.ConfigDict:
    """Returns the config with `num_steps` in place of `num_epochs`, rounded up.

    Args:
      config: the configuration.
      images: the number of images of the training split.
    """
    if not config.num_epochs:
        return config
    # Without the error of binary fractions: 2.2 epochs of 200 images are 440 images.
    steps = math.ceil(round(config.num_epochs * images / config.batch_size, 6))
    return _changed(config, num_steps=max(1, steps), num_epochs=0.0)


def describe(config: ml_collections.ConfigDict, images: int) -> str:
    """Returns the length in steps and in epochs, as a line."""
    epochs = config.num_steps * config.batch_size / images
    return (
        f"{config.num_steps:,} steps of {config.batch_size:,} images: {epochs:.3g} "
        f"epochs of {images:,} images"
    )


def _changed(
    config: ml_collections.ConfigDict, **fields: float
) -> ml_collections.ConfigDict:
    config = config.copy_and_resolve_references()
    config.update(fields)
    return config
