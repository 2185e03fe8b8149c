"""SSD300 on COCO 2017: the baseline, with the recipe of its reference implementations.

    pip install -r requirements-tf.txt  # Once, to prepare the dataset.
    python -m borrow_det.tools.import_weights --input=vgg16_reducedfc.pth --output=VGG
    python -m borrow_det.main --config=configs/ssd300_coco.py --workdir=W \
        --config.init_from=VGG --config.init_scope=trunk

vgg16_reducedfc.pth has the VGG-16 weights that SSD implementations share; torchvision's
vgg16 can be used, too. SSD has no normalization layers and does not train well without
such weights.

Arguments: reference=caffe (caffe: the implementation of SSD's paper, which published
results are compared with; torchvision: whose detector can be imported), borrow=False
(True: all levels except the last two borrow).

Published results, not measured here: SSD300 has 25.1 box AP on test-dev after training
on trainval35k (Liu et al. 2016, version 5 of the paper); torchvision's ssd300_vgg16 has
25.1 on val2017 (metadata of its weights). Two details differ here: Caffe trains biases
with twice the learning rate; torchvision applies weight decay to biases and freezes
conv1.
"""

import ml_collections

from borrow_det.configs import arguments, base
from borrow_det.errors import InputError

REFERENCES = ("caffe", "torchvision")
TWO, THREE = (1.0, 2.0, 1 / 2), (1.0, 2.0, 1 / 2, 3.0, 1 / 3)  # Aspect ratios.


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the configuration; see the module docstring."""
    args = arguments.parse(arg, reference="caffe", borrow=False)
    config = base.get_config()
    config.num_steps = 400_000
    config.input_size = (300, 300)
    config.eval_every = 20_000

    config.dataset.name = "coco/2017"
    config.dataset.train_split = "train"
    config.dataset.eval_splits = ("validation",)
    config.dataset.canvas = (640, 640)  # The resolution of COCO.
    # Some boxes of the training split have no width or height.
    config.dataset.bad_boxes = "drop"

    config.model.trunk = "ssd300"
    config.model.l2_scales = (20.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    config.model.pixel_mean = (123.0, 117.0, 104.0)
    config.model.pixel_std = (1.0, 1.0, 1.0)

    config.anchors.strides = (8, 16, 32, 64, 100, 300)
    config.anchors.sizes = (21.0, 45.0, 99.0, 153.0, 207.0, 261.0)
    config.anchors.next_size = 315.0
    config.anchors.aspect_ratios = (TWO, THREE, THREE, THREE, TWO, TWO)
    config.anchors.second_last = "geometric"
    config.anchors.second_after = "first"

    config.loss.min_negatives = 0
    config.loss.ignored = "negative"
    if args.reference == "caffe":
        config.nms.clip = "after"
        config.schedule.warmup_steps = 0
        config.schedule.boundaries = (0.7, 0.9)
    elif args.reference == "torchvision":
        config.anchors.clip = "sizes"
        config.loss.best_anchor = "each"
        # 120 epochs of the 117,266 images with objects; lower rates from 80 and 110 on.
        config.num_steps = 120 * 117_266 // 32
        config.optimizer.learning_rate = 2e-3
        config.schedule.warmup_steps = 1_000
        config.schedule.boundaries = (80 / 120, 110 / 120)
    else:
        raise InputError(
            f"config argument reference={args.reference} must be one of "
            f"{', '.join(REFERENCES)}"
        )
    # The fifth level has only one deeper position, so that it has no choice.
    config.borrow.levels = (0, 1, 2, 3)
    if not args.borrow:
        arguments.set_plain_ssd(config)
    return config
