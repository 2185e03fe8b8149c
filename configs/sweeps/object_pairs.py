"""Ablation on objects of photographs: context, pooling, borrowing and the paper's.

python -m borrow_det.tools.ablate --sweep=configs/sweeps/object_pairs.py \
    --config=configs/object_pairs.py:path=DIR --workdir=runs/object_pairs --seeds=5 \
--metrics=AP_small,validation/small_accuracy,swapped/small_accuracy,alone/small_accuracy

All rows but the first have context. Pooling is borrowing with the same weights for
every descriptor: it knows what is in the image, but cannot match. "Full" has our
similarity (centered cosine) and the matching loss. Only classes are predicted with what
is borrowed, except in "full, boxes too".
"""

from collections.abc import Callable
from typing import Any

from borrow_det.configs import arguments


def sweep(add: Callable[[str, dict[str, Any]], None]) -> None:
    """Adds the rows; the first, plain SSD, is the baseline."""
    no_matching = {"loss.matching": 0.0}
    add("ssd", arguments.PLAIN_SSD)
    add("ssd + context", arguments.CONTEXT_ONLY)
    add(
        "full, pooling",
        {
            "borrow.similarity": "query_independent",
            "borrow.center": False,
            **no_matching,
        },
    )
    add("full, no matching loss", no_matching)
    add("full", {})
    add("full, boxes too", {"borrow.heads": "both"})
    add(
        "full, the paper's similarity",
        {"borrow.similarity": "embedded_gaussian", "borrow.center": False},
    )
