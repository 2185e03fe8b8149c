"""Values in COCO files: ids, flags, numbers and sizes in the forms that tools write.

JSON files of users may have any value in any field. Each function returns None, or
raises ValueError, for a value that does not have the meaning in question.
"""

import math
import re
import reprlib
from typing import Any, TypeAlias

Id: TypeAlias = int | str

_FLAGS = {"0": False, "false": False, "1": True, "true": True}
_LARGEST_SIZE = 2**31 - 1
# JSON may have unpaired surrogates, which cannot be encoded in UTF-8.
_SURROGATE = re.compile("[\ud800-\udfff]")
# Texts of integers; longer ones are compared as texts.
_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)


def as_id(value: Any) -> Id | None:
    """Returns an id: an integer, the integer of a float without fraction, or a text."""
    if isinstance(value, str):
        return value if is_text(value) else None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def id_key(value: Id) -> str:
    """Returns a key that is equal for an integer and the text of that integer."""
    return str(value)


def id_order(value: Id) -> tuple[bool, int, str]:
    """Returns a key for sorting: integers and their texts by value, then texts."""
    if isinstance(value, int):
        return False, value, ""
    if _INTEGER.fullmatch(value):
        return False, int(value), value
    return True, 0, value


def as_flag(value: Any) -> bool:
    """Returns a flag of a JSON file: 0, 1, a boolean, their texts or null.

    Raises:
      ValueError: the value is none of these.
    """
    if value is None:
        return False
    if isinstance(value, str):
        flag = _FLAGS.get(value.lower())
        if flag is not None:
            return flag
    elif isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    raise ValueError(f"{reprlib.repr(value)} is not a flag")


def as_number(value: Any) -> float | None:
    """Returns a finite number as a float; a boolean is not a number."""
    number = as_any_number(value)
    return number if number is not None and math.isfinite(number) else None


def as_any_number(value: Any) -> float | None:
    """Returns a number as a float, possibly infinite or NaN."""
    if type(value) is float:
        return value
    if type(value) is not int:
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def as_size(value: Any) -> int | None:
    """Returns a width or height in pixels: a positive number without fraction."""
    number = as_number(value)
    if number is None or not number.is_integer():
        return None
    return int(number) if 1 <= number <= _LARGEST_SIZE else None


def is_text(value: Any) -> bool:
    """Returns true for a text that can be encoded in UTF-8."""
    return isinstance(value, str) and not _SURROGATE.search(value)
