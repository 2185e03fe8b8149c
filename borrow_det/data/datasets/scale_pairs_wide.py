"""A diagnostic set of scenes that are larger than the network's input."""

import dataclasses
from typing import ClassVar

import tensorflow_datasets as tfds

from borrow_det.data.datasets import scale_pairs


@dataclasses.dataclass
class ScalePairsWideConfig(scale_pairs.ScalePairsConfig):
    """One variant of the set; see `ScalePairsConfig`."""

    image_size: int = 576
    num_train: int = 1000
    num_validation: int = 128


class ScalePairsWide(scale_pairs.ScalePairs):
    """Scenes of scale_pairs in which no tile shows a small and a large disc.

    A scene is a square three times as wide and high as the network's input (576 pixels
    by default, for an input of 192). Lengths of small things are thus relative to a
    third of the side, which is called a tile: small discs have 8 to 10 % of a tile, and
    blocks of the background 12/256 of it. In a tile at the scale of the scene they look
    as in scale_pairs. The large discs and their stripes have the lengths of
    scale_pairs, relative to the side of the scene: in the entire scene, shrunk to the
    input, they look as in scale_pairs. Groups, species, hues, splits and reference
    lines are those of scale_pairs.

    The rim of a large disc and the center of a small disc are apart, along one axis, by
    at least 39 % of the side and the radius of the small disc. So a window with at most
    39 % of the side, which is a tile at a scale of 0.86 or more, never shows a part of
    a small disc and a part of a large one. The class of a small disc must come from
    beyond its tile.

    Splits: 1000 scenes in train; 128 in validation, swapped and alone, each. Images are
    stored as JPEG of quality 85 with full color resolution. The set takes 217 MB, and
    54 s to draw on two shared CPU cores.

    Do not flip or rotate these images in training, as in scale_pairs.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [ScalePairsWideConfig()]
    CONFIG = ScalePairsWideConfig
    MIN_SIZE = 192
    EXTENT = 3.0
    QUALITY = 85
