"""The diagnostic set at full size: are small objects classified by borrowing?

    python -m borrow_det.main --config=configs/scale_pairs.py --workdir=W
    python -m borrow_det.main --config=configs/scale_pairs.py:borrow=False --workdir=W

Arguments: size=256 (side of the images in pixels), width=0.25 (width of the trunk),
borrow=True (False: plain SSD on the same levels, the baseline).

The cost was not measured. Reference lines for small objects: 1/4 is chance; 1/2 is
reached by guessing among the two species in the image, without matching hues. On
`swapped`, a detector that borrows changes its answers with the large discs; on `alone`,
better results than chance are impossible.
"""

import ml_collections

from borrow_det.configs import arguments, base


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the configuration; see the module docstring."""
    args = arguments.parse(arg, size=256, width=0.25, borrow=True)
    config = base.get_config()
    config.num_steps = 4_000
    config.batch_size = 16
    config.input_size = (args.size, args.size)
    config.eval_every = 1_000
    config.log_every = 50

    config.dataset.name = "scale_pairs"
    config.dataset.image_size = args.size
    config.dataset.canvas = (args.size, args.size)
    config.dataset.train_split = "train"
    config.dataset.eval_splits = ("validation", "swapped", "alone")
    config.dataset.max_boxes = 10  # Two large and at most eight small discs.

    config.model.width = args.width
    config.model.norm = "batch"
    config.borrow.channels = round(256 * args.width)
    config.model.background_bias = 3.0

    # Small discs have 8 to 10 % of the side, large ones 25 to 31 %.
    config.anchors.sizes = tuple(args.size * s / 256 for s in (20.0, 40.0, 80.0, 160.0))
    config.anchors.aspect_ratios = ((1.0, 2.0, 0.5),) * 4
    config.anchors.second_last = "geometric"

    # Small discs are detected quickly; their class requires matching.
    config.loss.matching = 1.0

    # A mirrored stripe of 45 degrees is one of 135 degrees, which is another species,
    # and a crop may lose the lender.
    config.augment.enabled = False

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.weight_decay = 1e-4
    config.optimizer.clip_norm = 1.0
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 100

    if not args.borrow:
        arguments.set_plain_ssd(config)
    return config
