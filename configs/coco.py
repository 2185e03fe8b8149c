"""COCO 2017: trained on train, evaluated on validation.

    pip install -r requirements-tf.txt  # Once, to prepare the set.
    python -m borrow_det.main --config=configs/coco.py --workdir=W

Arguments: size=512 (side of the network's input, pixels), borrow=True (false: plain
SSD on the same levels, the baseline).

The schedule is SSD's (240,000 steps of 32 images), trained from scratch with
BatchNorm. Cost and score: not measured here.
"""

from borrow_det.configs import arguments, base


def get_config(arg=None):
    """Returns the configuration; see the module's docstring."""
    args = arguments.parse(arg, size=512, borrow=True)
    config = base.get_config()
    config.num_steps = 240_000
    config.input_size = (args.size, args.size)
    config.eval_every = 20_000

    config.dataset.name = "coco/2017"
    config.dataset.train_split = "train"
    config.dataset.eval_splits = ("validation",)
    config.dataset.canvas = (640, 640)  # COCO's own resolution.
    # A few boxes of the training images have no width or height.
    config.dataset.bad_boxes = "drop"

    config.model.norm = "batch"
    if not args.borrow:
        arguments.set_plain_ssd(config)
    return config
