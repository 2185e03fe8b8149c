"""Variants of the fusion of a level with context and borrowed features.

python -m borrow_det.tools.ablate --sweep=configs/sweeps/fusion.py \
    --config=configs/quickstart.py --workdir=runs/fusion --seeds=5

The context comes from the next level of the trunk (X) or the fused one (Y), is
initialized with zeros or randomly, and is added after borrowing or before it.
"""

from collections.abc import Callable
from typing import Any


def sweep(add: Callable[[str, dict[str, Any]], None]) -> None:
    """Adds the rows; the first, with the defaults, is the baseline."""
    for context_from in ("X", "Y"):
        for zero_init in (True, False):
            add(
                f"from {context_from}, starts at {'zero' if zero_init else 'random'}",
                {
                    "borrow.context_from": context_from,
                    "borrow.zero_init_context": zero_init,
                },
            )
    for context_from in ("X", "Y"):
        add(
            f"from {context_from}, borrowing after it",
            {"borrow.context_from": context_from, "borrow.after_context": True},
        )
