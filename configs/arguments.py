"""Arguments of config files: `--config=configs/NAME.py:width=0.5,borrow=False`."""

import ast
from typing import Any

import ml_collections

from borrow_det.errors import InputError

# Fields of the baselines, also for the rows of sweeps. References serve borrowing only.
CONTEXT_ONLY = {
    "borrow.enabled": False,
    "loss.matching": 0.0,
    "references.kind": "none",
}
PLAIN_SSD = {**CONTEXT_ONLY, "borrow.context": False}


def parse(arg: str | None, **defaults: Any) -> ml_collections.ConfigDict:
    """Parses `name=value,...`, where each value has the type of its default.

    Args:
      arg: the text after the colon, or None.
      **defaults: name and default of each argument; a type (`path=str`) for a required
        argument.

    Returns:
      The values by name.

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
                f"config argument {item!r} is unknown; write NAME=VALUE, where NAME is "
                f"one of {', '.join(defaults)}"
            )
        values[name] = _convert(name, text, defaults[name])
    missing = [name for name, value in values.items() if isinstance(value, type)]
    if missing:
        raise InputError(f"the config needs the arguments {', '.join(missing)}")
    return ml_collections.ConfigDict(values)


def set_plain_ssd(config: ml_collections.ConfigDict) -> None:
    """Changes a configuration to plain SSD on the same levels: `borrow=False`."""
    config.update_from_flattened_dict(PLAIN_SSD)


def _convert(name: str, text: str, default: Any) -> Any:
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
