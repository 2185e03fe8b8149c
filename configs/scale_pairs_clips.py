"""Clips of a fixed camera: lenders are in other frames.

    python -m borrow_det.main --config=configs/scale_pairs_clips.py --workdir=W

Arguments: references=group (none: borrowing within frames), borrow=True (False: plain
SSD on the same levels, without references).

Cost: 4 to 5 minutes a run on one CPU core beside other work, evaluation included. The
accuracy of small discs is 0.992 on `validation` (five seeds: 1.000 with four, 0.958
with one), 0.993 on `swapped` and 0.264 on `alone`, with borrow.heads=both
(docs/results.md).

The network is that of configs/quickstart.py. Reference lines for small discs: 1/4 is
chance, and the best that frames without references reach; 1/2 is reached by guessing
among the two species of the clip, without matching hues.
"""

import ml_collections

from borrow_det.configs import arguments, quickstart


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the configuration; see the module docstring."""
    args = arguments.parse(arg, references="group", borrow=True)
    config = quickstart.get_config()
    config.eval_every = config.num_steps
    config.dataset.name = "scale_pairs_clips"
    config.references.kind = args.references
    # Two of the other five frames lack the large discs: one of three has them.
    config.references.count = 3
    config.references.field = "clip"
    if not args.borrow:
        arguments.set_plain_ssd(config)
    return config
