"""Variants to try if borrowing does not help, as on photographs.

python -m borrow_det.tools.ablate --sweep=configs/sweeps/no_gain.py \
    --config=configs/folder_narrow.py:path=DIR --workdir=runs/no_gain --seeds=3

The matching loss may impair detection (rows with other weights), or reward wrong pairs:
it treats objects of the class with less than twice the side as background (row "sources
of any size", where every object of the class is a lender, including the object itself).
Queries may lack context ("after context") or differ more by brightness than by class
("normalised"), and borrowed features may have too few channels ("wide values").
"""

from collections.abc import Callable
from typing import Any

from borrow_det.configs import arguments


def sweep(add: Callable[[str, dict[str, Any]], None]) -> None:
    """Adds the rows; the first is the baseline."""
    add("ssd", arguments.PLAIN_SSD)
    add("full", {})
    for weight in (0.0, 0.3, 1.0):
        add(f"full, matching loss {weight:g}", {"loss.matching": weight})
    add("full, level 0 alone", {"borrow.levels": (0,)})
    add("full, sources of any size", {"loss.matching_scale": 0.01})
    add("full, after context", {"borrow.after_context": True})
    add("full, normalised", {"borrow.normalize": True})
    add("full, wide values", {"borrow.value_channels": 128})
