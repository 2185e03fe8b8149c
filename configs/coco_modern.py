"""COCO 2017 with the trunk, the heads and the losses of RetinaNet, and GIoU.

    pip install -r requirements-tf.txt  # Once, to prepare the dataset.
    pip install -r requirements-parity.txt  # PyTorch, to read its weights.
    python -m borrow_det.main --config=configs/coco_modern.py --workdir=W \
        --config.init_from=torchvision/resnet50 --config.init_scope=trunk

Arguments: size=512 (side of the network's input in pixels), borrow=True (False: the
same detector without borrowing and context, the baseline), trunk=resnet50 (or another
one of configs/coco.py, with the optimizer of configs/trunks.py).

The detector has one head for all levels, with towers of four 3x3 convolutions, sigmoid
focal loss and GIoU loss, and is trained by RetinaNet's schedule: SGD, 90,000 steps of
16 images, horizontal flips only. It differs from RetinaNet in its levels (strides 8 to
64 instead of 8 to 128, borrowing and context instead of a feature pyramid), in its
anchors (six per position instead of nine), in its negatives, which include anchors
with an IoU between 0.4 and 0.5, in its input size, and in clipping gradients at 10.
RetinaNet also freezes the first stages and the batch statistics of its trunk, which are
trained here; --config.model.frozen=2 --config.model.norm=frozen_batch does so.

Cost and AP were not measured.
"""

import ml_collections

from borrow_det.configs import arguments, base, trunks


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the configuration; see the module docstring."""
    args = arguments.parse(arg, size=512, borrow=True, trunk="resnet50")
    config = base.get_config()
    config.num_steps = 90_000
    config.batch_size = 16
    config.eval_batch_size = 16
    config.input_size = (args.size, args.size)
    config.eval_every = 10_000

    config.dataset.name = "coco/2017"
    config.dataset.train_split = "train"
    config.dataset.eval_splits = ("validation",)
    config.dataset.canvas = (640, 640)  # The resolution of COCO.
    # Some boxes of the training split have no width or height.
    config.dataset.bad_boxes = "drop"

    config.head.depth = 4
    config.head.shared = True
    # Two sizes per octave with three aspect ratios each, on all levels.
    ratios = (1.0, 2.0, 0.5)
    config.anchors.aspect_ratios = (ratios,) * 4
    config.anchors.second_aspect_ratios = ratios
    config.anchors.second_last = "geometric"
    config.anchors.next_size = 512.0

    config.loss.classification = "focal"
    config.loss.box = "giou"
    config.loss.localization = 2.0  # As with GIoU in ATSS.
    config.nms.score = 0.05
    config.nms.iou = 0.5
    config.nms.max_total = 100

    config.augment.photometric = 0.0
    config.augment.expand = 0.0
    config.augment.crop = False

    config.model.norm = "batch"
    config.optimizer.learning_rate = 0.01
    config.optimizer.weight_decay = 1e-4
    trunks.set_trunk(config, args.trunk)
    config.schedule.warmup_steps = 500
    config.schedule.boundaries = (60 / 90, 80 / 90)

    if not args.borrow:
        arguments.set_plain_ssd(config)
    return config
