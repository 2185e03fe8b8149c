"""Frames of clips with and without other frames of the clip as references.

python -m borrow_det.tools.ablate --sweep=configs/sweeps/references_clips.py \
    --config=configs/scale_pairs_clips.py --workdir=runs/references_clips --seeds=5

All rows train the same number of steps. Pooling is borrowing with the same weights for
every descriptor: it has the information in the references, but cannot match.
"""

from collections.abc import Callable
from typing import Any

from borrow_det.configs import arguments


def sweep(add: Callable[[str, dict[str, Any]], None]) -> None:
    """Adds the rows; the first, plain SSD, is the baseline."""
    no_references = {"references.kind": "none"}
    no_matching = {"loss.matching": 0.0}
    add("ssd", arguments.PLAIN_SSD)
    add("within frames", no_references)
    add(
        "group, pooling",
        {
            "borrow.similarity": "query_independent",
            "borrow.center": False,
            **no_matching,
        },
    )
    add("group", {})
    add("group, no matching loss", no_matching)
