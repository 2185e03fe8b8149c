"""How descriptors are compared: every similarity, centred or not, taught or not.

python -m borrow_det.tools.ablate --sweep=configs/sweeps/similarity.py \
    --config=configs/quickstart.py --workdir=runs/similarity --seeds=5

What was measured: docs/results.md. `embedded_gaussian` alone is the paper's; `cosine,
centred, matching loss` is ours. The loss has a weight of 1, as on scale_pairs; for
`dot_product`, whose rows are no probabilities, it is that of their softmax.
"""

SIMILARITIES = ("embedded_gaussian", "scaled", "cosine", "dot_product")


def sweep(add):
    """The first row is the baseline, plain SSD."""
    add(
        "ssd",
        {"borrow.enabled": False, "borrow.context": False, "loss.matching": 0.0},
    )
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
