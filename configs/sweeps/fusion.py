"""How a level is fused with its context and with what it borrowed.

python -m borrow_det.tools.ablate --sweep=configs/sweeps/fusion.py \
    --config=configs/quickstart.py --workdir=runs/fusion --seeds=5

The context comes from the trunk's next level (X) or from the fused one (Y), starts at
zero or at random, and is added after borrowing or before.
"""


def sweep(add):
    """The first row, the default, is the baseline."""
    for context_from in ("X", "Y"):
        for zero_init in (True, False):
            add(
                f"from {context_from}, starts at {'zero' if zero_init else 'random'}",
                {
                    "borrow.context_from": context_from,
                    "borrow.zero_init_context": zero_init,
                },
            )
    for context_from in ("X", "Y"):
        add(
            f"from {context_from}, borrowing after it",
            {"borrow.context_from": context_from, "borrow.after_context": True},
        )
