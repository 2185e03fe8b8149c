"""SSD512 on COCO 2017: SSD300's recipe on the larger input, with a seventh level.

    pip install -r requirements-tf.txt  # Once, to prepare the set.
    python -m borrow_det.tools.import_weights --input=vgg16_reducedfc.pth --output=VGG
    python -m borrow_det.main --config=configs/ssd512_coco.py --workdir=W \
        --config.init_from=VGG --config.init_scope=trunk

vgg16_reducedfc.pth is the VGG-16 that SSD implementations pass around; torchvision's
vgg16 will do, too. Without such weights it does not train well: it has no norm layers.

Argument: borrow=False (true: all levels but the last two borrow).

Of others, not measured here: SSD512 has 28.8 box AP on test-dev, trained on trainval35k
(Liu et al. 2016, the paper's v5).
"""

from borrow_det.configs import arguments, ssd300_coco


def get_config(arg=None):
    """Returns the configuration; see the module's docstring."""
    args = arguments.parse(arg, borrow=False)
    config = ssd300_coco.get_config(f"borrow={args.borrow}")
    config.input_size = (512, 512)

    config.model.trunk = "ssd512"
    config.model.l2_scales = (20.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)

    config.anchors.strides = (8, 16, 32, 64, 128, 256, 512)
    # Of the side: 4 %, then 10 % to 106 % in steps of 16 %.
    config.anchors.sizes = (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8)
    config.anchors.next_size = 542.72
    two, three = ssd300_coco.TWO, ssd300_coco.THREE
    config.anchors.aspect_ratios = (two, three, three, three, three, two, two)
    config.borrow.levels = (0, 1, 2, 3, 4)
    return config
