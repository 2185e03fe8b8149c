"""Weights of the matching loss (0: none, as in the paper) for each similarity.

python -m borrow_det.tools.ablate --sweep=configs/sweeps/matching_loss.py \
    --config=configs/quickstart.py --workdir=runs/matching_loss --seeds=5
"""

from collections.abc import Callable
from typing import Any

SIMILARITIES = {
    "embedded_gaussian": ("embedded_gaussian", False),
    "scaled": ("scaled", False),
    "cosine": ("cosine", False),
    "centred cosine": ("cosine", True),
    "dot_product": ("dot_product", False),
}


def sweep(add: Callable[[str, dict[str, Any]], None]) -> None:
    """Adds the rows; the baseline has the paper's similarity without the loss."""
    for name, (similarity, centered) in SIMILARITIES.items():
        for weight in (0.0, 0.3, 1.0, 3.0):
            add(
                f"{name}, {weight:g}",
                {
                    "borrow.similarity": similarity,
                    "borrow.center": centered,
                    "loss.matching": weight,
                },
            )
