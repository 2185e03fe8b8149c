"""Pretraining of a ConvNeXt on ImageNet, to initialize the trunk of a detector.

    python -m borrow_det.main --config=configs/imagenet_convnext_tiny.py --workdir=W \
        --config.dataset.data_dir=DATA
    python -m borrow_det.main --config=configs/voc.py:trunk=convnext_tiny --workdir=V \
        --config.init_from=W --config.init_scope=trunk

Arguments: trunk=convnext_tiny (or convnext_small), width=1.0 (width of the trunk; both
must be those of the detector).

configs/imagenet_vgg16.py describes how to get ImageNet. From the recipe of Liu et al.
(A ConvNet for the 2020s, 2022) come AdamW, weight decay 0.05, 300 epochs, a cosine
after a warm-up of 20 epochs, label smoothing, an average of the parameters, and the
learning rate, 4e-3 for batches of 4096, here 1e-3 for 1024. Clipping of gradients at 1
is ours. Mixup, RandAugment, random erasing and stochastic depth are missing, so that
the accuracy of the paper cannot be expected. Cost and accuracy were not measured.
"""

import ml_collections

from borrow_det.configs import arguments, imagenet_vgg16, trunks


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the configuration; see the module docstring."""
    args = arguments.parse(arg, trunk="convnext_tiny", width=1.0)
    config = imagenet_vgg16.get_config("epochs=300,batch=1024")
    trunks.set_trunk(config, args.trunk)
    config.model.width = args.width
    config.model.dropout = 0.0
    config.ema_decay = 0.9999
    config.optimizer.learning_rate = 1e-3
    config.optimizer.layer_decay = 1.0
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 25_000  # 20 epochs.
    return config
