"""Search for what makes matching better than pooling.

python -m borrow_det.tools.ablate --sweep=configs/sweeps/better_than_pooling.py \
    --config=configs/object_pairs.py:path=DIR --workdir=runs/better_than_pooling \
    --seeds=2 --against=full

Each row but the first changes one thing of "full": our similarity (centered cosine),
the matching loss, and boxes that are predicted without what is borrowed. In "full,
lenders in reach" the loss has about half of the lenders of object_pairs; small and
large objects are on opposite sides.
"""

from collections.abc import Callable
from typing import Any


def sweep(add: Callable[[str, dict[str, Any]], None]) -> None:
    """Adds the rows; compare them with `--against=full`."""
    add(
        "full, pooling",
        {
            "borrow.similarity": "query_independent",
            "borrow.center": False,
            "loss.matching": 0.0,
        },
    )
    add("full", {})
    for temperature in (3.0, 30.0):
        add(f"full, temperature {temperature:g}", {"borrow.temperature": temperature})
    for weight in (0.03, 0.3, 1.0):
        add(f"full, matching loss {weight:g}", {"loss.matching": weight})
    add("full, channels 128", {"borrow.channels": 128})
    add("full, wide values", {"borrow.value_channels": 128})
    add("full, levels 0 and 1", {"borrow.levels": (0, 1)})
    add("full, normalized", {"borrow.normalize": True})
    add("full, not centered", {"borrow.center": False})
    add("full, boxes too", {"borrow.heads": "both"})
    add("full, after context", {"borrow.after_context": True})
    add("full, most attended lender", {"loss.matching_lenders": "most_attended"})
    add("full, lenders in reach", {"loss.matching_reach": 0.63})
