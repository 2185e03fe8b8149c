"""Fields of each trunk: its normalization and its optimizer, for `trunk=NAME`.

The recipes are those of detectors that start from published weights: ResNet as in
RetinaNet (Lin et al., 2017: SGD, 0.01 for 16 images), ConvNeXt and ViT as in their own
papers (Liu et al., 2022; Li et al., ViTDet, 2022: AdamW, 1e-4, layer-wise decay of the
rate). Clipping is ours.
"""

from typing import Any

import ml_collections

from borrow_det.errors import InputError

_RESNET: dict[str, Any] = {
    "model.norm": "batch",
    "optimizer.name": "sgd",
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 1e-4,
    "optimizer.clip_norm": 10.0,
}
_TRANSFORMER: dict[str, Any] = {
    "model.norm": "layer",
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 1e-4,
    "optimizer.clip_norm": 1.0,
}
_CONVNEXT = _TRANSFORMER | {
    "optimizer.weight_decay": 0.05,
    "optimizer.layer_decay": 0.95,
}
_VIT = _TRANSFORMER | {"optimizer.weight_decay": 0.1, "optimizer.layer_decay": 0.7}
# Learning rate of SGD per image of a batch.
_RESNET_RATE = 0.01 / 16

RECIPES = {
    "resnet18": _RESNET,
    "resnet34": _RESNET,
    "resnet50": _RESNET,
    "resnet101": _RESNET,
    "convnext_tiny": _CONVNEXT,
    "convnext_small": _CONVNEXT,
    "vit_small": _VIT,
    "vit_base": _VIT,
}


def set_trunk(config: ml_collections.ConfigDict, name: str) -> None:
    """Changes a configuration to another trunk than VGG-16: `trunk=NAME`.

    The batch size must be set before.

    Raises:
      InputError: there is no such trunk.
    """
    if name == "vgg16":
        return
    if name not in RECIPES:
        raise InputError(
            f"config argument trunk={name} must be one of vgg16, {', '.join(RECIPES)}"
        )
    config.model.trunk = name
    config.update_from_flattened_dict(RECIPES[name])
    if name.startswith("resnet"):
        config.optimizer.learning_rate = _RESNET_RATE * config.batch_size
