"""Trunks by their name in `config.model.trunk`."""

from borrow_det.models.trunks.ssd import SSD300, SSD512
from borrow_det.models.trunks.vgg import VGG16, VGGStages

TRUNKS: dict[str, type[VGGStages]] = {
    "vgg16": VGG16,
    "ssd300": SSD300,
    "ssd512": SSD512,
}
