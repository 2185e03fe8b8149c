"""KITTI: cars, people and bicycles on the road, in wide images.

    pip install -r requirements-tf.txt  # Once, to prepare the set.
    python -m borrow_det.main --config=configs/kitti.py --workdir=W

Argument: borrow=True (false: plain SSD on the same levels, the baseline).

The splits are TFDS's: KITTI's training images, parted by video. Regions marked as
DontCare are not in TFDS's set, so that detections there count as false. 60,000 steps
of 16 images, from scratch with BatchNorm. Cost and score: not measured here.
"""

from borrow_det.configs import arguments, base


def get_config(arg=None):
    """Returns the configuration; see the module's docstring."""
    args = arguments.parse(arg, borrow=True)
    config = base.get_config()
    config.batch_size = 16
    config.eval_batch_size = 16
    # Images measure about 1242 x 375.
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
