"""SSD512 on COCO 2017: the recipe of SSD300, a larger input and a seventh level.

    pip install -r requirements-tf.txt  # Once, to prepare the dataset.
    python -m borrow_det.tools.import_weights --input=vgg16_reducedfc.pth --output=VGG
    python -m borrow_det.main --config=configs/ssd512_coco.py --workdir=W \
        --config.init_from=VGG --config.init_scope=trunk

vgg16_reducedfc.pth has the VGG-16 weights that SSD implementations share; torchvision's
vgg16 can be used, too. SSD has no normalization layers and does not train well without
such weights.

Argument: borrow=False (True: all levels except the last two borrow).

Published result, not measured here: SSD512 has 28.8 box AP on test-dev after training
on trainval35k (Liu et al. 2016, version 5 of the paper).
"""

import ml_collections

from borrow_det.configs import arguments, ssd300_coco


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the configuration; see the module docstring."""
    args = arguments.parse(arg, borrow=False)
    config = ssd300_coco.get_config(f"borrow={args.borrow}")
    config.input_size = (512, 512)

    config.model.trunk = "ssd512"
    config.model.l2_scales = (20.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)

    config.anchors.strides = (8, 16, 32, 64, 128, 256, 512)
    # 4 % of the side, then 10 % to 106 % in steps of 16 %.
    config.anchors.sizes = (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8)
    config.anchors.next_size = 542.72
    two, three = ssd300_coco.TWO, ssd300_coco.THREE
    config.anchors.aspect_ratios = (two, three, three, three, three, two, two)
    config.borrow.levels = (0, 1, 2, 3, 4)
    return config
