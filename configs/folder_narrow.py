"""Your own images on a machine without an accelerator: a narrow detector.

    python -m borrow_det.main \
        --config=configs/folder_narrow.py:path=DIR,train=train,val=val --workdir=W

Arguments: path (required: the folder), train=train and val=val (splits, as in
configs/folder.py), held_out=0.2 (share of the training images to validate on without
a validation split), size=256 (side of the network's input in pixels), steps=400,
borrow=True (False: plain SSD on the same levels, the baseline).

The trunk has an eighth of the width and is trained from scratch. A run takes minutes
and learns enough to compare variants; use configs/folder.py for good detections.
"""

import ml_collections

from borrow_det.configs import arguments, folder


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the configuration; see the module docstring."""
    args = arguments.parse(
        arg,
        path=str,
        train="train",
        val="val",
        held_out=0.2,
        size=256,
        steps=400,
        borrow=True,
    )
    config = folder.get_config(
        f"path={args.path},train={args.train},val={args.val},held_out={args.held_out},"
        f"size={args.size},steps={args.steps},width=0.125,batch=8,borrow={args.borrow}"
    )
    config.eval_every = config.checkpoint_every = args.steps
    config.model.stages = (1, 1, 2, 2, 2)
    # Most small objects have 10 to 30 of 256 pixels.
    config.anchors.sizes = (16.0, 32.0, 64.0, 128.0)
    config.anchors.aspect_ratios = ((1.0, 2.0, 0.5),) * 4
    config.augment.expand = 0.0  # Expansion shrinks small objects.
    config.optimizer.learning_rate = 2e-3
    config.schedule.warmup_steps = 50
    return config
