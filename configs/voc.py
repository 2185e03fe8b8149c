"""PASCAL VOC: training on 2007 and 2012 trainval, evaluation on 2007 test.

    pip install -r requirements-tf.txt  # Once, to prepare the dataset.
    python -m borrow_det.main --config=configs/voc.py --workdir=W

Arguments: size=512 (side of the network's input in pixels), borrow=True (False: plain
SSD on the same levels, the baseline), trunk=vgg16 (or resnet18, resnet34, resnet50,
resnet101, convnext_tiny, convnext_small, vit_small, vit_base).

The schedule is that of SSD (120,000 steps of 32 images). VGG-16 is trained from scratch
with BatchNorm; the optimizer of another trunk is for published weights (init_from).
Cost and AP were not measured.
"""

import ml_collections

from borrow_det.configs import arguments, base, trunks


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the configuration; see the module docstring."""
    args = arguments.parse(arg, size=512, borrow=True, trunk="vgg16")
    config = base.get_config()
    config.num_steps = 120_000
    config.input_size = (args.size, args.size)

    config.dataset.name = "voc"
    config.dataset.train_split = "train"
    config.dataset.eval_splits = ("test",)
    config.dataset.bad_boxes = "clip"

    config.model.norm = "batch"
    trunks.set_trunk(config, args.trunk)
    config.evaluation.voc = True
    if not args.borrow:
        arguments.set_plain_ssd(config)
    return config
