"""Pretraining of a ResNet on ImageNet, to initialize the trunk of a detector.

    python -m borrow_det.main --config=configs/imagenet_resnet50.py --workdir=W \
        --config.dataset.data_dir=DATA
    python -m borrow_det.main --config=configs/voc.py:trunk=resnet50 --workdir=V \
        --config.init_from=W --config.init_scope=trunk

Arguments: trunk=resnet50 (or resnet18, resnet34, resnet101), width=1.0 (width of the
trunk; both must be those of the detector).

configs/imagenet_vgg16.py describes how to get ImageNet. The recipe is that of Goyal et
al. (Accurate, Large Minibatch SGD, 2017): batches of 256, SGD with momentum 0.9, weight
decay 1e-4, learning rate 0.1, divided by 10 after 30, 60 and 80 of 90 epochs, a warm-up
of five epochs, random resized crops. Ours are label smoothing,
plain instead of Nesterov momentum, and no zero initialization of the last scale of a
block; their warm-up is for larger batches. torchvision states top1
0.761 for its first weights of ResNet-50. Cost and accuracy were not measured here.
"""

import ml_collections

from borrow_det.configs import arguments, imagenet_vgg16, trunks


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the configuration; see the module docstring."""
    args = arguments.parse(arg, trunk="resnet50", width=1.0)
    config = imagenet_vgg16.get_config("epochs=90")
    trunks.set_trunk(config, args.trunk)
    config.model.width = args.width
    config.model.dropout = 0.0
    config.optimizer.learning_rate = 0.1
    config.optimizer.clip_norm = 0.0
    config.schedule.boundaries = (30 / 90, 60 / 90, 80 / 90)
    config.schedule.warmup_steps = 25_000  # Five epochs.
    return config
