"""The diagnostic set at full size: does borrowing tell small objects apart?

    python -m borrow_det.main --config=configs/scale_pairs.py --workdir=W
    python -m borrow_det.main --config=configs/scale_pairs.py:borrow=False --workdir=W

Arguments: size=256 (pixels of an image's side), width=0.25 (of the trunk),
borrow=True (false: plain SSD on the same levels, the baseline).

Cost: not measured here. Reference lines for small objects: 1/4 is chance, 1/2 knows
which two species are there without matching hues. On `swapped` a detector that
borrows follows; on `alone` nobody can do better than chance.
"""

from borrow_det.configs import arguments, base


def get_config(arg=None):
    """Returns the configuration; see the module's docstring."""
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
    config.dataset.max_boxes = 10  # Two large, at most eight small.

    config.model.width = args.width
    config.model.norm = "batch"
    config.borrow.channels = round(256 * args.width)
    config.model.background_bias = 3.0

    # Small objects measure 8 to 10 % of the side, large ones 25 to 31 %.
    config.anchors.sizes = tuple(args.size * s / 256 for s in (20.0, 40.0, 80.0, 160.0))
    config.anchors.aspect_ratios = ((1.0, 2.0, 0.5),) * 4
    config.anchors.second_last = "geometric"

    # Small objects are found at once; their class has to be matched.
    config.loss.matching = 1.0

    # A mirrored stripe of 45 degrees is one of 135 degrees, another species; a crop
    # may lose the instance that is to be borrowed from.
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
