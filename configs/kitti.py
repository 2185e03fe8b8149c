"""KITTI: cars, pedestrians and cyclists in wide images of roads.

    pip install -r requirements-tf.txt  # Once, to prepare the dataset.
    python -m borrow_det.main --config=configs/kitti.py --workdir=W

Argument: borrow=True (False: plain SSD on the same levels, the baseline).

The splits are those of TFDS: KITTI's training images, divided by video. TFDS's dataset
does not include the regions marked as DontCare, so that detections there are false
positives. The run makes 60,000 steps of 16 images, from scratch with BatchNorm. Cost
and AP were not measured.
"""

import ml_collections

from borrow_det.configs import arguments, base


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the configuration; see the module docstring."""
    args = arguments.parse(arg, borrow=True)
    config = base.get_config()
    config.batch_size = 16
    config.eval_batch_size = 16
    # Images have about 1242 x 375 pixels.
    config.input_size = (384, 1280)

    config.dataset.name = "kitti"
    config.dataset.train_split = "train"
    config.dataset.eval_splits = ("validation",)
    config.dataset.canvas = (384, 1280)
    config.dataset.bad_boxes = "clip"

    config.model.norm = "batch"
    if not args.borrow:
        arguments.set_plain_ssd(config)
    return config
