"""Which part of the model helps: plain SSD, context, borrowing, both, and a control.

python -m borrow_det.tools.ablate --sweep=configs/sweeps/components.py \
    --config=configs/quickstart.py --workdir=runs/components --seeds=5

What was measured: docs/results.md. "The paper's" have its similarity and no matching loss,
at the width and levels of the base; "to the letter" has those, too: embeddings as wide
as the levels, three of which borrow. Rows that can take our additions (centred cosine,
matching loss) stand with and without them, the last one as "at the letter's size".
Global pooling is borrowing whose weights are the same for every descriptor: it knows
what is in the image, and cannot match.
"""

PAPER = {
    "borrow.similarity": "embedded_gaussian",
    "borrow.center": False,
    "loss.matching": 0.0,
}
LETTER = {"borrow.channels": 0, "borrow.levels": (0, 1, 2)}
POOLING = {
    "borrow.similarity": "query_independent",
    "borrow.center": False,
    "borrow.context": False,
}


def sweep(add):
    """The first row is the baseline."""
    no_matching = {"loss.matching": 0.0}
    no_borrowing = {"borrow.enabled": False, **no_matching}
    no_context = {"borrow.context": False}
    add("ssd", {**no_borrowing, **no_context})
    add("ssd + context", no_borrowing)
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
