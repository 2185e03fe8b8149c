"""Your own images: any folder with COCO annotation files, trained from scratch.

    python -m borrow_det.main \
        --config=configs/coco_folder.py:path=DIR,train=train,val=val --workdir=W

Arguments: path (required: the folder), train=train and val=val (splits: the names of
the annotation files, or slices such as train[:16]), size=512 (side of the network's
input, pixels), width=0.5 (of the trunk), steps=10000, batch=16, borrow=True (false:
plain SSD on the same levels, the baseline).

DIR holds annotations/NAME.json, NAME/_annotations.coco.json or NAME.json for each
split, and the images beside them or in images/: borrow_det/data/datasets/coco_json.py.

Measured on 2 shared CPU cores, from scratch, at a size that fits them, in 43 minutes
(26 of processor time) on 312 training and 64 validation images of highway traffic,
one class: AP 0.373, AP50 0.804, AP_small 0.175, with
    size=320,width=0.125,steps=1000,batch=8
    --config.model.stages='(1, 1, 2, 2, 2)' --config.borrow.channels=32
    --config.anchors.sizes='(20.0, 40.0, 80.0, 160.0)'
    --config.optimizer.learning_rate=0.002 --config.schedule.warmup_steps=100
    --config.dataset.max_boxes=50 --config.augment.max_expand=2.0
    --config.loss.matching=1.0
The defaults are for an accelerator; their cost was not measured.
"""

from borrow_det.configs import arguments, base


def get_config(arg=None):
    """Returns the configuration; see the module's docstring."""
    args = arguments.parse(
        arg,
        path=str,
        train="train",
        val="val",
        size=512,
        width=0.5,
        steps=10_000,
        batch=16,
        borrow=True,
    )
    config = base.get_config()
    config.num_steps = args.steps
    config.batch_size = args.batch
    config.eval_batch_size = args.batch
    config.input_size = (args.size, args.size)
    config.eval_every = max(args.steps // 5, 1)

    config.dataset.name = "coco_folder"
    config.dataset.path = args.path
    config.dataset.train_split = args.train
    config.dataset.eval_splits = (args.val,)
    # Twice the input's side: crops of training images then keep their resolution.
    config.dataset.canvas = (2 * args.size, 2 * args.size)

    config.model.width = args.width
    config.model.norm = "batch"
    config.borrow.channels = round(256 * args.width)
    config.model.background_bias = 3.0

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 1e-4
    config.optimizer.clip_norm = 1.0
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 200

    if not args.borrow:
        arguments.set_plain_ssd(config)
    return config
