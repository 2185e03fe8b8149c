"""The built-in diagnostic set: small objects whose class requires borrowing."""

import dataclasses
from collections.abc import Callable, Collection, Iterator
from typing import Any, ClassVar

import ml_collections
import numpy as np
import tensorflow_datasets as tfds

from borrow_det.data.datasets import prepare, records
from borrow_det.data.datasets.opened import OpenedSet, check_split_names
from borrow_det.data.datasets.scale_pairs_scenes import (
    SPECIES,
    Scene,
    draw,
    encode,
    make_scene,
)
from borrow_det.errors import InputError

SPLITS = ("train", "validation", "swapped", "alone")
# Accuracy on small objects: of a guess, and of a guess among the two species in the
# image.
REFERENCE_LINES = {"chance": 0.25, "knows species, not hue": 0.5}

_Examples = Iterator[tuple[int, dict[str, Any]]]


@dataclasses.dataclass
class ScalePairsConfig(tfds.core.BuilderConfig):
    """One variant of the set.

    Attributes:
      name: derived from the other fields.
      image_size: side of the images, in pixels.
      seed: random seed.
      num_train: number of scenes of the train split.
      num_validation: number of scenes of validation, swapped and alone, each.
    """

    name: str = ""
    image_size: int = 256
    seed: int = 0
    num_train: int = 3000
    num_validation: int = 512

    def __post_init__(self) -> None:
        default = type(self)
        self.name = f"{self.image_size}px"
        values = self.seed, self.num_train, self.num_validation
        if values != (default.seed, default.num_train, default.num_validation):
            self.name += f"_{self.seed}_{self.num_train}_{self.num_validation}"


class ScalePairs(tfds.core.GeneratorBasedBuilder):
    """Drawn scenes in which the class of a small object requires borrowing.

    A square image (256 pixels by default; lengths in pixels scale with it) shows gray
    blocks of 12 pixels and random brightness with gray and color noise, and on them two
    groups of discs. A group has one of four species and a hue. The species differ in
    the stripes of a large disc: 0, 45, 90 or 135 degrees from the horizontal. The two
    groups of an image have different species, and hues at least 0.2 apart on the circle
    of length 1. Hues are sampled for each image, independently of the species.

    A group has one large instance with stripes, whose diameter is 28 % of the side
    (within 12 % of that), and two to four small plain discs of the group's hue, of 8 to
    10 %. All have the species as their label. The pixels of a small disc therefore do
    not determine its class: it must be matched, by hue, with the large instance of its
    group. The large instances are in a strip along one edge of the image, the small
    discs in a strip along the opposite edge (a random choice of edges; no two boxes
    overlap), so that the shallow levels, which detect the small discs, do not see the
    large ones. The center of a small disc and the rim of a large one are at least 40 %
    of the side apart, 102 of 256 pixels; conv4_3 with its prediction head sees 54
    pixels around its center.

    Splits:
      train: 3000 scenes.
      validation: 512 scenes.
      swapped: the scenes of validation, in the same order. Background and small discs
        are the same to the pixel (before compression). Each large instance is redrawn
        as one of the two species that were not in the image, and the labels of the
        small discs change with it. A detector that borrows changes its answers, too.
      alone: the scenes of validation without the large instances. The labels of the
        small discs are the same, and cannot be inferred.

    Reference lines for the class of small objects: guessing is right in 1/4 of the
    cases, guessing among the two species in the image in 1/2.

    Do not flip or rotate these images in training: a mirrored stripe of 45 degrees is a
    stripe of 135 degrees, which is another species. Hues of the entire image may
    change.

    An image is a function of (seed, split, index); records are ordered by index. Images
    are stored as JPEG of quality 95 with full color resolution: the noise would make
    PNG files four times as large.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [ScalePairsConfig(image_size=s) for s in (256, 192)]
    CONFIG: ClassVar[Callable[..., ScalePairsConfig]] = ScalePairsConfig
    MIN_SIZE: ClassVar[int] = 64  # Smallest image_size.
    EXTENT: ClassVar[float] = 1.0  # Argument of `make_scene`.
    QUALITY: ClassVar[int] = 95  # Quality of the JPEG images.

    def _info(self) -> tfds.core.DatasetInfo:
        side = self.builder_config.image_size
        if side < self.MIN_SIZE:
            raise InputError(
                f"dataset.image_size is {side}: the objects of {self.name} need at "
                f"least {self.MIN_SIZE} pixels"
            )
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(self._features(side)),
            # Records keep their index: validation, swapped and alone correspond.
            disable_shuffling=True,
        )

    def _features(self, side: int) -> dict[str, Any]:
        """Returns the features of a record, for images of `side` pixels."""
        return {
            "image": tfds.features.Image(shape=(side, side, 3), encoding_format="jpeg"),
            "file_name": tfds.features.Text(),
            "image_id": np.int64,
            "height": np.int32,
            "width": np.int32,
            "objects": tfds.features.Sequence(
                {
                    "bbox": tfds.features.BBoxFeature(),
                    "label": tfds.features.ClassLabel(names=SPECIES),
                    "group": np.int32,
                    "is_large": np.bool_,
                    "hue": np.float32,
                }
            ),
        }

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, _Examples]:
        del dl_manager
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> _Examples:
        config = self.builder_config
        is_train = split == "train"
        for number in range(config.num_train if is_train else config.num_validation):
            yield from self._examples_of(split, 0 if is_train else 1, number)

    def _examples_of(self, split: str, split_number: int, index: int) -> _Examples:
        """Makes the record of one scene, as the split shows it."""
        config = self.builder_config
        scene = make_scene(
            config.seed, split_number, index, config.image_size, self.EXTENT
        )
        name = f"{split}_{index:05d}.jpg"
        yield index, example(scene, split, index, name, self.QUALITY)


def open_set(
    builder_class: type[ScalePairs],
    dataset_config: ml_collections.ConfigDict,
    split_names: Collection[str],
) -> OpenedSet:
    """Opens splits of scale_pairs or a set like it, after drawing missing images.

    Args:
      builder_class: builder of the set.
      dataset_config: config.dataset; image_size and data_dir are used.
      split_names: some of SPLITS.

    Raises:
      InputError: a split is unknown, image_size is too small, or the set cannot be
        written.
    """
    check_split_names(builder_class.name, split_names, SPLITS)
    config = builder_class.CONFIG(image_size=dataset_config.image_size)
    # TFDS wants its listed objects.
    config = builder_class.builder_configs.get(config.name, config)
    builder = prepare.prepared(builder_class, config, dataset_config.data_dir)
    return OpenedSet(
        splits={split: [prepare.data_source(builder, split)] for split in split_names},
        class_names=SPECIES,
        category_ids=tuple(range(1, len(SPECIES) + 1)),
        convert=records.convert_scale_pairs,
        reference_lines=dict(REFERENCE_LINES),
        counterfactual_of=counterfactual_of,
    )


def counterfactual_of(split: str) -> str:
    """Returns the split whose scenes a counterfactual split shows.

    `swapped[:16]` and `alone[:16]` show those of `validation[:16]`. Returns "" for
    other splits.
    """
    shown = split.replace("swapped", "validation").replace("alone", "validation")
    return "" if shown == split else shown


def example(
    scene: Scene, split: str, index: int, file_name: str, quality: int
) -> dict[str, Any]:
    """Makes the builder's record of one scene, as the split shows it."""
    species = scene.swapped_species if split == "swapped" else scene.species
    with_large = split != "alone"
    image = draw(scene, species, with_large)
    return {
        "image": encode(image, quality),
        "file_name": file_name,
        "image_id": index,
        "height": image.shape[0],
        "width": image.shape[1],
        "objects": [
            {
                "bbox": tfds.features.BBox(
                    ymin=disc.y - disc.radius,
                    xmin=disc.x - disc.radius,
                    ymax=disc.y + disc.radius,
                    xmax=disc.x + disc.radius,
                ),
                "label": species[disc.group],
                "group": disc.group,
                "is_large": disc.is_large,
                "hue": scene.hues[disc.group],
            }
            for disc in scene.discs
            if with_large or not disc.is_large
        ],
    }
