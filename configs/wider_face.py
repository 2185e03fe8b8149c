"""WIDER FACE: faces of a few pixels and more, up to two thousand per image.

    pip install -r requirements-tf.txt  # Once, to prepare the dataset.
    python -m borrow_det.main --config=configs/wider_face.py --workdir=W

Arguments: size=640 (side of the network's input in pixels), borrow=True (False: plain
SSD on the same levels, the baseline).

The schedule is that of S3FD (120,000 steps of 32 images), but from scratch with
BatchNorm. Cost and AP were not measured.
"""

import ml_collections

from borrow_det.configs import arguments, base


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the configuration; see the module docstring."""
    args = arguments.parse(arg, size=640, borrow=True)
    config = base.get_config()
    config.num_steps = 120_000
    config.input_size = (args.size, args.size)

    config.dataset.name = "wider_face"
    config.dataset.train_split = "train"
    config.dataset.eval_splits = ("validation",)
    config.dataset.canvas = (1024, 1024)  # Most images are 1024 pixels wide.
    # One image has 1968 faces; few have more than 512.
    config.dataset.max_boxes = 512
    config.dataset.overflow = "keep_largest"
    # Some faces have no width or height.
    config.dataset.bad_boxes = "drop"

    config.model.norm = "batch"
    # Faces are nearly square, and half of them are narrower than 16 pixels.
    config.anchors.sizes = (16.0, 48.0, 128.0, 320.0)
    config.anchors.aspect_ratios = ((1.0, 0.8),) * 4
    config.nms.max_per_class = 1000
    config.nms.max_total = 750
    config.evaluation.max_detections = 750
    if not args.borrow:
        arguments.set_plain_ssd(config)
    return config
