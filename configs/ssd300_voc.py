"""SSD300 on PASCAL VOC: training on 2007 and 2012 trainval, evaluation on 2007 test.

    pip install -r requirements-tf.txt  # Once, to prepare the dataset.
    python -m borrow_det.tools.import_weights --input=vgg16_reducedfc.pth --output=VGG
    python -m borrow_det.main --config=configs/ssd300_voc.py --workdir=W \
        --config.init_from=VGG --config.init_scope=trunk

vgg16_reducedfc.pth has the VGG-16 weights that SSD implementations share; torchvision's
vgg16 can be used, too. SSD has no normalization layers and does not train well without
such weights.

Argument: borrow=False (True: all levels except the last two borrow).

The recipe is that of SSD's paper: 120,000 steps of 32 images, including difficult
objects. Published result, not measured here: SSD300 has 77.2 mAP on 2007 test, 11-point
(Liu et al. 2016, version 5 of the paper).
"""

import ml_collections

from borrow_det.configs import arguments, ssd300_coco


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the configuration; see the module docstring."""
    args = arguments.parse(arg, borrow=False)
    config = ssd300_coco.get_config(f"borrow={args.borrow}")
    config.num_steps = 120_000
    config.eval_every = 5_000

    config.dataset.name = "voc"
    config.dataset.eval_splits = ("test",)
    config.dataset.canvas = (512, 512)  # VOC's images are smaller.
    config.dataset.bad_boxes = "clip"
    config.evaluation.voc = True

    config.anchors.sizes = (30.0, 60.0, 111.0, 162.0, 213.0, 264.0)
    config.loss.ignored = "positive"
    config.schedule.boundaries = (80 / 120, 100 / 120)
    return config
