"""Tiles of large images with and without the overview as a reference.

python -m borrow_det.tools.ablate --sweep=configs/sweeps/references_wide.py \
    --config=configs/scale_pairs_wide.py --workdir=runs/references_wide --seeds=5

All rows train the same number of steps. Pooling is borrowing with the same weights for
every descriptor: it has the information in the overview, but cannot match.
"""

from collections.abc import Callable
from typing import Any

from borrow_det.configs import arguments


def sweep(add: Callable[[str, dict[str, Any]], None]) -> None:
    """Adds the rows; the first, plain SSD by tiles, is the baseline."""
    no_references = {"references.kind": "none"}
    no_matching = {"loss.matching": 0.0}
    add("ssd", arguments.PLAIN_SSD)
    add("within tiles", no_references)
    add(
        "entire image, shrunk",
        {
            "augment.enabled": False,
            "augment.tile": False,
            "evaluation.tiles": "",
            **no_references,
        },
    )
    add(
        "overview, pooling",
        {
            "borrow.similarity": "query_independent",
            "borrow.center": False,
            **no_matching,
        },
    )
    add("overview", {})
    add("overview, no matching loss", no_matching)
