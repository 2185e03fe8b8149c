"""Trunks by name."""

from borrow_det.models.trunks.ssd import SSD300, SSD512
from borrow_det.models.trunks.vgg import VGG16

TRUNKS = {"vgg16": VGG16, "ssd300": SSD300, "ssd512": SSD512}  # config.model.trunk
