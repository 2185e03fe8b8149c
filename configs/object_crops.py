"""Pretraining of the trunk on objects, cropped from the images of a detection dataset.

    python -m borrow_det.main --config=configs/object_crops.py --workdir=runs/pretrain
    python -m borrow_det.main --config=configs/quickstart.py --workdir=runs/finetuned \
        --config.init_from=runs/pretrain --config.init_scope=trunk

The first command trains VGG-16 as a classifier. The second initializes the trunk of a
detector with it: fc6 and fc7 become conv_fc6 and conv_fc7 by decimation while loading
(workdir/trunk_conversion.py), and the run prints the parameters that it uses. Other
trunks are taken as they are, without the linear layer.

Arguments: path="" (empty: the scenes of configs/quickstart.py; or your own folder, as
in configs/folder.py, with a trunk of the same width), train=train, val=validation
(splits), trunk=vgg16 (or another one of configs/folder.py), width=0.125 (width of the
trunk; both must be those of the detector), steps=120, flip=0.5 (probability of a flip;
only for your own folder, because a mirrored stripe of scale_pairs has another class).

In scale_pairs, only the large discs show their class. The small ones, below 24 pixels,
are left out.

Measured on 2 busy CPU cores, seed 0: 4 minutes (2 minutes of CPU time), top1 1.000 on
the 1,024 discs of validation. The second command, with --config.num_steps=160
--config.eval_every=160, has AP50_small 0.995, and 0.990 without init_from: these drawn
images are learned quickly with and without pretraining.
"""

import ml_collections

from borrow_det.configs import arguments, base, quickstart, trunks


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the configuration; see the module docstring."""
    args = arguments.parse(
        arg,
        path="",
        train="train",
        val="validation",
        trunk="vgg16",
        width=0.125,
        steps=120,
        flip=0.5,
    )
    config = base.get_config()
    config.task = "classification"
    config.num_steps = args.steps
    config.batch_size = 16
    config.eval_batch_size = 32
    config.input_size = (224, 224)  # The input size of VGG-16, which fc6 requires.
    config.log_every = max(args.steps // 12, 1)
    config.eval_every = args.steps

    scenes = quickstart.get_config()
    config.dataset.name = "folder" if args.path else scenes.dataset.name
    config.dataset.path = args.path
    config.dataset.image_size = scenes.dataset.image_size
    config.dataset.train_split = args.train
    config.dataset.eval_splits = (args.val,)
    config.dataset.canvas = (256, 256) if args.path else (96, 96)
    config.dataset.crop_context = 0.1
    config.dataset.min_crop_side = 24.0

    config.model.norm = "batch"
    config.model.width = args.width
    if not args.path and args.trunk == "vgg16":
        config.model.stages = scenes.model.stages

    config.augment.photometric = 0.0
    config.augment.crop_area = (0.5, 1.0)
    config.augment.crop_tries = 10
    config.augment.flip = args.flip if args.path else 0.0

    if args.trunk != "vgg16":
        trunks.set_trunk(config, args.trunk)
        config.model.dropout = 0.0
    # A trunk from scratch learns at one rate.
    config.optimizer.layer_decay = 1.0
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 1e-4
    config.optimizer.clip_norm = 1.0
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 20
    config.report.contact_sheet = 9
    return config
