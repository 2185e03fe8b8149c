"""Your own images: a folder with COCO, YOLO, VOC, CVAT or LabelMe annotations.

    python -m borrow_det.main \
        --config=configs/folder.py:path=DIR,train=train,val=val --workdir=W

Arguments: path (required: the folder), train=train and val=val (splits, or slices such
as train[:16]), held_out=0.2 (share of the training images to validate on without a
validation split), size=512 (side of the network's input in pixels), trunk=vgg16 (or
resnet18, resnet34, resnet50, resnet101, convnext_tiny, convnext_small, vit_small,
vit_base), width=0.5 (width of the trunk; 1 with weights or another trunk than vgg16),
steps=10000, batch=16, borrow=True (False: plain SSD on the same levels, the baseline),
weights="" (weights to start the trunk from: a name such as torchvision/resnet50, a
folder that `import-weights` has made, or a run), frozen=0 (number of its stages that
stay as they are; 5: all that published weights of vgg16_features, ResNet and ConvNeXt
have; 13: all blocks of a ViT).

The format is recognized by the files of DIR; docs/data.md describes the layouts. For
COCO, DIR has annotations/NAME.json, NAME/_annotations.coco.json or NAME.json for each
split NAME, and the images in the same folders or in images/.

Without weights the network is trained from scratch. The defaults are for an
accelerator; their cost was not measured. A narrower detector was trained from scratch
on 2 shared CPU cores, in 43 minutes (26 minutes of CPU time), on 312 images of highway
traffic with one class. On 64 validation images it has AP 0.373, AP50 0.804, AP_small
0.175, with
    size=320,width=0.125,steps=1000,batch=8 --config.borrow.heads=both
    --config.model.stages='(1, 1, 2, 2, 2)' --config.borrow.channels=32
    --config.anchors.sizes='(20.0, 40.0, 80.0, 160.0)'
    --config.optimizer.learning_rate=0.002 --config.dataset.max_boxes=50
    --config.augment.max_expand=2.0 --config.loss.matching=1.0
"""

import ml_collections

from borrow_det.configs import arguments, base, trunks


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the configuration; see the module docstring."""
    args = arguments.parse(
        arg,
        path=str,
        train="train",
        val="val",
        held_out=0.2,
        size=512,
        trunk="vgg16",
        width=0.0,
        steps=10_000,
        batch=16,
        borrow=True,
        weights="",
        frozen=0,
    )
    narrow = args.trunk == "vgg16" and not args.weights
    width = args.width or (0.5 if narrow else 1.0)
    config = base.get_config()
    config.num_steps = args.steps
    config.batch_size = args.batch
    config.eval_batch_size = args.batch
    config.input_size = (args.size, args.size)
    config.eval_every = max(args.steps // 5, 1)

    config.dataset.name = "folder"
    config.dataset.path = args.path
    config.dataset.train_split = args.train
    config.dataset.eval_splits = (args.val,)
    config.dataset.held_out = args.held_out
    config.dataset.max_boxes = 0
    # With twice the side of the input, crops of training images keep their resolution.
    config.dataset.canvas = (2 * args.size, 2 * args.size)

    config.model.width = width
    config.model.norm = "batch"
    config.borrow.channels = round(256 * width)
    config.model.background_bias = 3.0

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 1e-4
    config.optimizer.clip_norm = 1.0
    config.schedule.name = "cosine"
    # At most a tenth of a short run.
    config.schedule.warmup_steps = min(200, args.steps // 10)

    config.model.frozen = args.frozen
    trunks.set_trunk(config, args.trunk)
    if args.weights:
        config.init_from = args.weights
        config.init_scope = "trunk"
        if args.trunk == "vgg16":
            _fit_published_vgg(config)
    else:  # A trunk from scratch learns at one rate.
        config.optimizer.layer_decay = 1.0
    if not args.borrow:
        arguments.set_plain_ssd(config)
    return config


def _fit_published_vgg(config: ml_collections.ConfigDict) -> None:
    """Fits the network to published weights of VGG-16, which has no normalization."""
    config.model.norm = "none"
    # The maps of such a trunk have values of hundreds. SSD's scale makes them about 1.
    config.model.l2_scales = (20.0,) * 4
    config.optimizer.learning_rate = 3e-4
