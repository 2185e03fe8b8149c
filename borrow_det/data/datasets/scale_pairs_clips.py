"""A diagnostic set of clips, in which large and small discs are in different frames."""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from borrow_det.data.datasets import scale_pairs
from borrow_det.data.datasets.scale_pairs_scenes import FRAMES, make_clip


@dataclasses.dataclass
class ScalePairsClipsConfig(scale_pairs.ScalePairsConfig):
    """One variant of the set; see `ScalePairsConfig`. A clip counts as one scene."""

    image_size: int = 192
    num_train: int = 500
    num_validation: int = 64


class ScalePairsClips(scale_pairs.ScalePairs):
    """Clips of a fixed camera in which no frame shows a small and a large disc.

    A clip has six frames (192 pixels by default) with one background and two groups of
    discs, which have species and hues as in scale_pairs. In three of the frames, at
    random positions in the clip, the two large discs pass; the other three show two to
    four small discs of each group. The sizes are those of scale_pairs. Where the discs
    are, the number of small ones and the noise differ by frame. The field `clip` of an
    image is the number of its clip in the split, and the frames of a clip follow each
    other.

    The class of a small disc must thus come from another frame. Two of the other five
    frames show no large discs, so that any three of them (references.count=3) include
    at least one that does.

    Splits: 500 clips in train; 64 in validation, swapped (the large discs are redrawn
    as the other two species) and alone (without large discs: half of the frames show
    the background only). The frames of validation, swapped and alone correspond as the
    scenes of scale_pairs do, and the reference lines are the same. The set takes
    175 MB, and 20 s to draw on two shared CPU cores.

    Do not flip or rotate these images in training, as in scale_pairs.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [ScalePairsClipsConfig()]
    CONFIG = ScalePairsClipsConfig

    def _features(self, side: int) -> dict[str, Any]:
        return {**super()._features(side), "clip": np.int64}

    def _examples_of(
        self, split: str, split_number: int, index: int
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Makes the records of the frames of one clip, as the split shows them."""
        config = self.builder_config
        clip = make_clip(config.seed, split_number, index, config.image_size)
        for frame, scene in enumerate(clip):
            number = FRAMES * index + frame
            name = f"{split}_{index:04d}_{frame}.jpg"
            record = scale_pairs.example(scene, split, number, name, self.QUALITY)
            yield number, {**record, "clip": index}
