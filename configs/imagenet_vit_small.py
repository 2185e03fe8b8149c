"""Pretraining of a ViT on ImageNet, to initialize the trunk of a detector.

    python -m borrow_det.main --config=configs/imagenet_vit_small.py --workdir=W \
        --config.dataset.data_dir=DATA
    python -m borrow_det.main --config=configs/voc.py:trunk=vit_small --workdir=V \
        --config.init_from=W --config.init_scope=trunk

Arguments: trunk=vit_small (or vit_base), width=1.0 (width of the trunk; both must be
those of the detector).

configs/imagenet_vgg16.py describes how to get ImageNet. The recipe is that of Beyer et
al. (Better plain ViT baselines for ImageNet-1k, 2022) without mixup and RandAugment:
AdamW, batches of 1024, learning rate 1e-3, weight decay 0.1 times the learning rate,
gradients clipped at 1, 90 epochs, a cosine after a warm-up of 10,000 steps. With both
they report top1 0.765 for ViT-S/16, with average pooling and fixed position embeddings;
here the class token is read, and position embeddings are learned. Cost and accuracy
were not measured.
"""

import ml_collections

from borrow_det.configs import arguments, imagenet_vgg16, trunks


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Returns the configuration; see the module docstring."""
    args = arguments.parse(arg, trunk="vit_small", width=1.0)
    config = imagenet_vgg16.get_config("epochs=90,batch=1024")
    trunks.set_trunk(config, args.trunk)
    config.model.width = args.width
    config.model.dropout = 0.0
    config.loss.label_smoothing = 0.0
    config.optimizer.learning_rate = 1e-3
    config.optimizer.layer_decay = 1.0
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 10_000
    return config
