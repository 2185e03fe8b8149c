"""Pretraining on the objects of a detection set: each box is an image of its class.

    python -m borrow_det.main --config=configs/object_crops.py --workdir=runs/pretrain
    python -m borrow_det.main --config=configs/quickstart.py --workdir=runs/finetuned \
        --config.init_from=runs/pretrain --config.init_scope=trunk

The first command trains VGG-16 as a classifier, in the second the detector's trunk
starts from it: fc6 and fc7 become conv_fc6 and conv_fc7 by decimation, which happens on
loading (borrow_det/workdir/init_from.py), and the run prints what it took.

Arguments: path="" (the scenes of configs/quickstart.py; or a folder of your own, as in
configs/coco_folder.py, whose trunk at width=WIDTH it then has), train=train,
val=validation (splits), width=0.125 (of the trunk; the detector's must be the same),
steps=120, flip=0.5 (probability; for your own folder alone: a mirrored stripe of
scale_pairs is one of another class).

In scale_pairs only the large discs show their class: the small ones, under 24 pixels
here, are left out.

Measured on 2 CPU cores that had other work, seed 0: 4 minutes (2 of processor time),
top1 1.000 on the 1,024 discs of validation. The second command, cut to 160 steps by
--config.num_steps=160 --config.eval_every=160: AP50_small 0.995, and 0.990 without
init_from; what is drawn here is learnt quickly either way.
"""

from borrow_det.configs import arguments, base, quickstart


def get_config(arg=None):
    """Returns the configuration; see the module's docstring."""
    args = arguments.parse(
        arg, path="", train="train", val="validation", width=0.125, steps=120, flip=0.5
    )
    config = base.get_config()
    config.task = "classification"
    config.num_steps = args.steps
    config.batch_size = 16
    config.eval_batch_size = 32
    config.input_size = (224, 224)  # What fc6 is made for.
    config.log_every = max(args.steps // 12, 1)
    config.eval_every = args.steps

    scenes = quickstart.get_config()
    config.dataset.name = "coco_folder" if args.path else scenes.dataset.name
    config.dataset.path = args.path
    config.dataset.image_size = scenes.dataset.image_size
    config.dataset.train_split = args.train
    config.dataset.eval_splits = (args.val,)
    config.dataset.canvas = (256, 256) if args.path else (96, 96)
    config.dataset.crop_context = 0.1
    config.dataset.min_crop_side = 24.0

    config.model.norm = "batch"
    config.model.width = args.width
    if not args.path:
        config.model.stages = scenes.model.stages

    config.augment.photometric = 0.0
    config.augment.crop_area = (0.5, 1.0)
    config.augment.crop_tries = 10
    config.augment.flip = args.flip if args.path else 0.0

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 1e-4
    config.optimizer.clip_norm = 1.0
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 20
    config.report.contact_sheet = 9
    return config
