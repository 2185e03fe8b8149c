"""What is borrowed from: deeper levels, the deconvolved map, or the same level.

python -m borrow_det.tools.ablate --sweep=configs/sweeps/source.py \
    --config=configs/quickstart.py --workdir=runs/source --seeds=5

`deconvolved` is the paper's discussion: each level is matched with the next one,
deconvolved to its size. `same` is a plain non-local block. Each stands with and
without the matching loss.
"""


def sweep(add):
    """The first row is the baseline."""
    for source in ("deeper", "deconvolved", "same"):
        add(source, {"borrow.source": source})
        add(
            f"{source}, no matching loss",
            {"borrow.source": source, "loss.matching": 0.0},
        )
