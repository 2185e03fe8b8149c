"""The arguments of a config file: `--config=configs/NAME.py:width=0.5,borrow=False`."""

import ast

import ml_collections

from borrow_det.errors import InputError


def parse(arg: str | None, **defaults) -> ml_collections.ConfigDict:
    """Reads `name=value,…` over defaults, each value as its default's type.

    Args:
      arg: what follows the colon, or None.
      **defaults: every argument there is. A type (`path=str`) stands for one that
        must be given.

    Returns:
      The value of each name in `defaults`.

    Raises:
      InputError: an argument is unknown, malformed or missing.
    """
    values = dict(defaults)
    for item in (arg or "").split(","):
        name, given, text = item.partition("=")
        if not item:
            continue
        if not given or name not in defaults:
            raise InputError(
                f"config argument {item!r} is unknown; write NAME=VALUE with a NAME of "
                f"{', '.join(defaults)}"
            )
        values[name] = _convert(name, text, defaults[name])
    missing = [name for name, value in values.items() if isinstance(value, type)]
    if missing:
        raise InputError(f"the config needs the arguments {', '.join(missing)}")
    return ml_collections.ConfigDict(values)


def set_plain_ssd(config: ml_collections.ConfigDict) -> None:
    """Turns a config into plain SSD on the same levels: `borrow=False`."""
    config.borrow.enabled = False
    config.borrow.context = False
    config.loss.matching = 0.0


def _convert(name, text, default):
    kind = default if isinstance(default, type) else type(default)
    if kind is str:
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise InputError(
            f"config argument {name}={text} must be of type {kind.__name__}"
        )
    return value
