"""All similarities, with and without centering and the matching loss.

python -m borrow_det.tools.ablate --sweep=configs/sweeps/similarity.py \
    --config=configs/quickstart.py --workdir=runs/similarity --seeds=5

`embedded_gaussian` is the paper's, `cosine, centred, matching loss` is our default. The
loss has a weight of 1, as on scale_pairs. The rows of `dot_product` are not
probabilities; the loss uses their softmax. docs/results.md has results.
"""

from collections.abc import Callable
from typing import Any

from borrow_det.configs import arguments

SIMILARITIES = ("embedded_gaussian", "scaled", "cosine", "dot_product")


def sweep(add: Callable[[str, dict[str, Any]], None]) -> None:
    """Adds the rows; the first, plain SSD, is the baseline."""
    add("ssd", arguments.PLAIN_SSD)
    for similarity in SIMILARITIES:
        for centered in (False, True):
            for matching in (0.0, 1.0):
                add(
                    similarity
                    + ", centred" * centered
                    + ", matching loss" * (matching > 0),
                    {
                        "borrow.similarity": similarity,
                        "borrow.center": centered,
                        "loss.matching": matching,
                    },
                )
