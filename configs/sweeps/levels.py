"""Levels that borrow, and levels that they borrow from; 0 is the shallowest.

python -m borrow_det.tools.ablate --sweep=configs/sweeps/levels.py \
    --config=configs/quickstart.py --workdir=runs/levels --seeds=5
"""

from collections.abc import Callable
from typing import Any

from borrow_det.configs import arguments


def sweep(add: Callable[[str, dict[str, Any]], None]) -> None:
    """Adds the rows; the first, with context only, is the baseline."""
    add("none", arguments.CONTEXT_ONLY)
    for levels in ((0,), (0, 1), (0, 1, 2), (1, 2)):
        names = " and ".join(map(str, levels))
        add(f"{names} from all deeper", {"borrow.levels": levels})
    for sources in ((1,), (2,), (3,), (2, 3)):
        names = " and ".join(map(str, sources))
        add(
            f"0 from {names}",
            {"borrow.levels": (0,), "borrow.from_levels": sources},
        )
