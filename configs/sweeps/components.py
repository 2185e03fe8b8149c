"""Ablation of the components: plain SSD, context, borrowing, both, and a control.

python -m borrow_det.tools.ablate --sweep=configs/sweeps/components.py \
    --config=configs/quickstart.py --workdir=runs/components --seeds=5

Rows with "the paper's" have the similarity of the paper, no matching loss, and boxes
that are predicted with what is borrowed, too, with the width and levels of the base.
"To the letter" also has its width and levels: embeddings have the channels of the
level, and three levels borrow. Other rows have our changes (centered cosine, matching
loss, only classes see what is borrowed); "at the letter's size" has them with the
paper's width and levels. Pooling is borrowing with the same weights for every
descriptor (global pooling): it has the information in the image, but cannot match.
docs/results.md has results.
"""

from collections.abc import Callable
from typing import Any

from borrow_det.configs import arguments

PAPER = {
    "borrow.similarity": "embedded_gaussian",
    "borrow.center": False,
    "borrow.heads": "both",
    "loss.matching": 0.0,
}
LETTER = {"borrow.channels": 0, "borrow.levels": (0, 1, 2)}
POOLING = {
    "borrow.similarity": "query_independent",
    "borrow.center": False,
    "borrow.context": False,
}


def sweep(add: Callable[[str, dict[str, Any]], None]) -> None:
    """Adds the rows; the first is the baseline."""
    no_matching = {"loss.matching": 0.0}
    no_context = {"borrow.context": False}
    add("ssd", arguments.PLAIN_SSD)
    add("ssd + context", arguments.CONTEXT_ONLY)
    add("ssd + pooling", {**POOLING, **no_matching})
    add("ssd + pooling, matching loss", POOLING)
    add("ssd + borrowing, the paper's", {**PAPER, **no_context})
    add("ssd + borrowing", no_context)
    add("full, the paper's", PAPER)
    add(
        "full, the paper's to the letter",
        {**PAPER, **LETTER},
    )
    add("full", {})
    add("full, at the letter's size", LETTER)
