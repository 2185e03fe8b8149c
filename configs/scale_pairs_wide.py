"""Scenes three times as wide as the input, by tiles: lenders are beyond the tile.

    python -m borrow_det.main --config=configs/scale_pairs_wide.py --workdir=W

Arguments: references=overview (none: borrowing within tiles), tiles=True (False: the
entire image shrunk to the input, without references), borrow=True (False: plain SSD on
the same levels, without references).

Cost: 10 to 16 minutes on one CPU core beside other work, evaluation included. Small
discs are right in 0.991 of the cases on `validation` (five seeds, 0.973 to 1.000),
0.992 on `swapped` and 0.259 on `alone`, with borrow.heads=both (docs/results.md; the
number of steps was chosen by these splits).

The network is that of configs/quickstart.py. Reference lines for small discs: 1/4 is
chance, and the best that tiles without references reach; 1/2 is reached by guessing
among the two species in the overview, without matching hues.
"""

import ml_collections

from borrow_det.configs import arguments, quickstart


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the configuration; see the module docstring."""
    args = arguments.parse(arg, references="overview", tiles=True, borrow=True)
    config = quickstart.get_config()
    config.num_steps = config.eval_every = 1440
    config.eval_batch_size = 16
    config.dataset.name = "scale_pairs_wide"
    config.dataset.image_size = 576
    config.dataset.canvas = (576, 576)

    # A mirrored stripe of 45 degrees is one of 135 degrees, which is another species.
    config.augment.flip = 0.0
    config.augment.photometric = 0.0
    config.augment.expand = 0.0
    config.augment.crop = False
    config.augment.tile_zoom = (0.9, 1.1)
    config.augment.tile_objects = 0.9
    # Species are learnt from the large discs at the scale of the overview.
    config.augment.tile_whole = 0.5
    config.augment.enabled = config.augment.tile = args.tiles
    # The tiles are 206 pixels wide, within the range of the zoom, and overlap by more
    # than a small disc.
    config.evaluation.tiles = "3x3" if args.tiles else ""
    config.evaluation.tile_overlap = 0.1
    config.references.kind = args.references if args.tiles else "none"
    if not args.borrow:
        arguments.set_plain_ssd(config)
    return config
