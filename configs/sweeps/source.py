"""Source positions: deeper levels, the deconvolved map, or the same level.

python -m borrow_det.tools.ablate --sweep=configs/sweeps/source.py \
    --config=configs/quickstart.py --workdir=runs/source --seeds=5

`deconvolved` matches each level with the next one, deconvolved to its size, which the
paper discusses. `same` is a plain non-local block. Each row has a variant without the
matching loss.
"""

from collections.abc import Callable
from typing import Any


def sweep(add: Callable[[str, dict[str, Any]], None]) -> None:
    """Adds the rows; the first is the baseline."""
    for source in ("deeper", "deconvolved", "same"):
        add(source, {"borrow.source": source})
        add(
            f"{source}, no matching loss",
            {"borrow.source": source, "loss.matching": 0.0},
        )
