"""Former names of metrics, under which files of earlier versions hold them."""

import re
from collections.abc import Mapping
from typing import TypeVar

_Value = TypeVar("_Value")

_ATTENTION = (
    r"objects|(?:precision|positions|lift)_(?:same|other)|entropy|query_dependence"
    r"|share_level\d+"
)
# A name may follow that of a split, or of the comparison and a split: SPLIT/NAME in
# metrics.jsonl and in tables. Figures of single classes (AP/CLASS) keep their names.
_PREFIX = r"(?P<prefix>(?!(?:[^/]+/)?A[PR][^/]*/)(?:[^/]+/){0,2})"
_RENAMED = [
    (rf"borrow/(?P<rest>(?:level\d+/)?(?:{_ATTENTION}))", r"attention/\g<rest>"),
    (r"(?P<rest>(?:AP50|AP|AR|objects)_small_with(?:out)?)_source", r"\g<rest>_lender"),
    (r"followed", "consistency"),
    (r"stayed", "unchanged"),
    (r"small_found", "small_recall"),
]
_PATTERNS = [
    (re.compile(_PREFIX + pattern), r"\g<prefix>" + name) for pattern, name in _RENAMED
]


def current_name(name: str) -> str:
    """Returns the present name of a metric.

    Args:
      name: present or former name, with or without the names of its split.
    """
    for pattern, replacement in _PATTERNS:
        if match := pattern.fullmatch(name):
            return match.expand(replacement)
    return name


def with_current_names(metrics: Mapping[str, _Value]) -> dict[str, _Value]:
    """Returns metrics, read from a file, under their present names."""
    return {current_name(name): value for name, value in metrics.items()}
