"""SSD300 on PASCAL VOC: trained on 2007 and 2012 trainval, evaluated on 2007 test.

    pip install -r requirements-tf.txt  # Once, to prepare the set.
    python -m borrow_det.tools.import_weights --input=vgg16_reducedfc.pth --output=VGG
    python -m borrow_det.main --config=configs/ssd300_voc.py --workdir=W \
        --config.init_from=VGG --config.init_scope=trunk

vgg16_reducedfc.pth is the VGG-16 that SSD implementations pass around; torchvision's
vgg16 will do, too. Without such weights it does not train well: it has no norm layers.

Argument: borrow=False (true: all levels but the last two borrow).

The paper's: 120,000 steps of 32 images, difficult objects among those to learn. Of
others, not measured here: SSD300 has 77.2 mAP on 2007 test, 11-point (Liu et al. 2016,
the paper's v5).
"""

from borrow_det.configs import arguments, ssd300_coco


def get_config(arg=None):
    """Returns the configuration; see the module's docstring."""
    args = arguments.parse(arg, borrow=False)
    config = ssd300_coco.get_config(f"borrow={args.borrow}")
    config.num_steps = 120_000
    config.eval_every = 5_000

    config.dataset.name = "voc"
    config.dataset.eval_splits = ("test",)
    config.dataset.canvas = (512, 512)  # Larger than its images.
    config.dataset.bad_boxes = "clip"
    config.evaluation.voc = True

    config.anchors.sizes = (30.0, 60.0, 111.0, 162.0, 213.0, 264.0)
    config.loss.ignored = "positive"
    config.schedule.boundaries = (80 / 120, 100 / 120)
    return config
