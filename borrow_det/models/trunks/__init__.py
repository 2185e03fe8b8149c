"""Trunks by their name in `config.model.trunk`."""

import ml_collections

from borrow_det.errors import InputError
from borrow_det.models.trunks.convnext import ConvNeXtSmall, ConvNeXtTiny
from borrow_det.models.trunks.resnet import ResNet18, ResNet34, ResNet50, ResNet101
from borrow_det.models.trunks.ssd import SSD300, SSD512
from borrow_det.models.trunks.trunk import Trunk
from borrow_det.models.trunks.vgg import VGG16
from borrow_det.models.trunks.vit import ViTBase, ViTSmall

TRUNKS: dict[str, type[Trunk]] = {
    "vgg16": VGG16,
    "ssd300": SSD300,
    "ssd512": SSD512,
    "resnet18": ResNet18,
    "resnet34": ResNet34,
    "resnet50": ResNet50,
    "resnet101": ResNet101,
    "convnext_tiny": ConvNeXtTiny,
    "convnext_small": ConvNeXtSmall,
    "vit_small": ViTSmall,
    "vit_base": ViTBase,
}


def check_stages(config: ml_collections.ConfigDict) -> None:
    """Checks that `model.stages` has an entry for every stage of the trunk.

    Raises:
      InputError: it has other entries.
    """
    given, stages = config.model.stages, TRUNKS[config.model.trunk].stages
    if given and len(given) != len(stages):
        raise InputError(
            f"model.stages has {len(given)} entries; {config.model.trunk} takes "
            f"{len(stages)}, such as its own {tuple(stages)}"
        )
