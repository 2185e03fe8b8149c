"""A narrow detector on scale_pairs that learns to borrow in minutes on two CPU cores.

    python -m borrow_det.main --config=configs/quickstart.py --workdir=runs/quickstart

Argument: borrow=True (False: plain SSD on the same levels, the baseline).

Measured on 2 shared CPU cores, seed 0: 2 to 6 minutes, including the set-up of the
README's command; AP50_small 1.000 on validation and on swapped. Plain SSD with the same
number of steps has 0.26 on both, where 1/4 is chance.
"""

import ml_collections

from borrow_det.configs import arguments, base


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the configuration; see the module docstring."""
    options = arguments.parse(arg, borrow=True)
    config = base.get_config()
    config.num_steps = 480
    config.batch_size = 8
    config.eval_batch_size = 32
    config.input_size = (192, 192)
    config.log_every = 40
    config.eval_every = 240
    config.checkpoint_every = 240

    config.dataset.name = "scale_pairs"
    config.dataset.image_size = 192
    config.dataset.canvas = (192, 192)
    config.dataset.max_boxes = 10
    config.dataset.eval_splits = ("validation", "swapped", "alone")

    config.model.width = 0.125
    config.model.stages = (1, 1, 2, 2, 2)
    config.model.norm = "batch"
    config.model.background_bias = 3.0

    config.borrow.levels = (0,)
    config.borrow.channels = 32

    config.anchors.sizes = (20.0, 40.0, 80.0, 160.0)
    ratios = (1.0, 2.0, 0.5)
    config.anchors.aspect_ratios = (ratios,) * 4

    # Small discs are detected quickly; their class requires matching.
    config.loss.matching = 1.0
    config.augment.enabled = False
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.clip_norm = 1.0
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 50

    config.report.contact_sheet = 9
    if not options.borrow:
        arguments.set_plain_ssd(config)
    return config
