"""A diagnostic set of small and large objects that are cut out of photographs."""

import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import ml_collections
import numpy as np
import tensorflow_datasets as tfds

from borrow_det.data.datasets import (
    folder,
    object_pairs_scenes,
    prepare,
    records,
    scale_pairs,
)
from borrow_det.data.datasets.cut_outs import CutOut, Photographs, by_class
from borrow_det.data.datasets.folder_records import FolderRecords
from borrow_det.data.datasets.opened import OpenedSet, Record, check_split_names
from borrow_det.errors import InputError

# Smallest number of objects of a class that can be cut out, in each split.
MIN_OBJECTS = 5

# Splits of the folder that scenes are made of: training and validation.
_PARTS = ("train", "val")


@dataclasses.dataclass(frozen=True)
class Material:
    """The photographs that scenes are made of; training first, then validation.

    Attributes:
      photographs: the photographs of each split.
      cut_outs: the objects of each split by label, with the same labels in both.
      digest: hash of the photographs and of the choice of objects.
      notices: lines for a run's start.
    """

    photographs: tuple[Photographs, ...]
    cut_outs: tuple[Mapping[int, Sequence[CutOut]], ...]
    digest: str
    notices: tuple[str, ...]

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits; `swapped` needs a third class."""
        has_third = len(self.cut_outs[0]) > 2
        return tuple(s for s in scale_pairs.SPLITS if has_third or s != "swapped")


@dataclasses.dataclass
class ObjectPairsConfig(scale_pairs.ScalePairsConfig):
    """One variant of the set; see `ScalePairsConfig`.

    Attributes:
      instance: dataset.instance.
      folder_name: name of the folder, for the name of the variant.
      material: the photographs; only their digest is part of the name.
    """

    image_size: int = 192
    num_train: int = 2400
    instance: str = "other"
    folder_name: str = ""
    material: Material | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        digest = self.material.digest if self.material else ""
        hashed = _hash((digest, self.seed, self.num_train, self.num_validation))
        readable = re.sub(r"\W", "_", self.folder_name, flags=re.ASCII)
        self.name = f"{readable}_{self.instance}_{self.image_size}px_{hashed}"


class ObjectPairs(scale_pairs.ScalePairs):
    """Scenes of objects that are cut out of the labeled photographs of a folder.

    A square image (192 pixels by default) shows a smooth random background and, on it,
    objects of two classes. There is one large instance of each class, whose side is 25
    to 31 % of that of the image, in a strip along one edge. Along the opposite edge are
    two to four small objects of 5.5 to 7.5 %, each of one of the two classes. (The side
    of an object is the square root of the area of its box.) The small objects are other
    instances of the class than the large one, or that instance again
    (dataset.instance). Two classes are as likely as any other two, and so are the
    objects of a class.

    The large instances are lenders: they show their class, of which a small object
    shows little. In contrast to scale_pairs, it does show something, so that the class
    need not be borrowed. The center of a small object is at least 28 % of the side
    away from the large ones, 54 of 192 pixels. So conv4_3 with its prediction head,
    which sees 54 pixels around its center, does not see them there.

    Objects are shrunk by averaging over areas, with their aspect ratio, and blended
    into the background with soft edges, which end dataset.crop_context outside of
    their boxes. An object is cut out if it is large enough (dataset.min_crop_side) and
    not truncated (see `cut_outs.Photographs`). The colors of a background have the
    mean and the covariance of those of a random photograph outside of its boxes.

    Training scenes are made of the folder's training photographs, the others of its
    validation photographs, or of those that are held out (dataset.held_out). No other
    split of the folder is read. Classes with fewer than five such objects in one of the
    two are left out.

    Splits:
      train: 2400 scenes.
      validation: 512 scenes.
      swapped: the scenes of validation, in the same order. Background and small objects
        are the same to the pixel (before compression). Each large instance is replaced
        by one of a class that is not in the scene. In contrast to scale_pairs, the
        labels of the small objects stay: their pixels are those of their class. They
        have no lender, and two large objects that mislead. (With three classes in the
        folder, both are of the third; with two classes, this split is absent.)
      alone: the scenes of validation without the large instances. The labels of the
        small objects are the same.

    A detector that classifies small objects by their own pixels gives the same answers
    in the three splits. The accuracy on validation minus that on alone is what lenders
    add; the accuracy on alone minus that on swapped is what misleading ones take. Since
    no label changes, counterfactual consistency is not reported.

    Reference lines for the class of small objects: guessing is right in one of as many
    cases as there are classes, guessing among the two classes in the scene in 1/2.

    Images may be mirrored in training. An image is a function of the photographs and of
    (seed, split, index); records are ordered by index.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[list[ObjectPairsConfig]] = []
    CONFIG = ObjectPairsConfig
    MIN_SIZE = 96

    def _features(self, side: int) -> dict[str, Any]:
        """Returns the features of a record; see `scale_pairs.ScalePairs`.

        `photograph` and `number` are the file and the number of the box in it that an
        object is cut out of.
        """
        objects = {
            "bbox": tfds.features.BBoxFeature(),
            "label": np.int32,
            "is_large": np.bool_,
            "photograph": tfds.features.Text(),
            "number": np.int32,
        }
        return {**super()._features(side), "objects": tfds.features.Sequence(objects)}

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Any]:
        del dl_manager
        known = self.builder_config.material.splits
        return {split: self._generate_examples(split) for split in known}

    def _examples_of(
        self, split: str, split_number: int, index: int
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Makes the record of one scene, as the split shows it."""
        config = self.builder_config
        photographs = config.material.photographs[split_number]
        scene = object_pairs_scenes.make_scene(
            (config.seed, split_number, index),
            config.image_size,
            config.material.cut_outs[split_number],
            len(photographs),
            same_instance=config.instance == "same",
        )
        objects = scene.objects(split)
        colors = photographs.colors(scene.photograph)
        image = object_pairs_scenes.draw(scene, objects, colors, photographs.pixels)
        side = config.image_size
        yield (
            index,
            {
                "image": scale_pairs.encode(image, self.QUALITY),
                "file_name": f"{split}_{index:05d}.jpg",
                "image_id": index,
                "height": side,
                "width": side,
                "objects": [
                    {
                        "bbox": tfds.features.BBox(*(placed.box / side)),
                        "label": placed.cut_out.label,
                        "is_large": placed.is_large,
                        "photograph": photographs.file_name(placed.cut_out.photograph),
                        "number": placed.cut_out.number,
                    }
                    for placed in objects
                ],
            },
        )


def open_set(
    dataset_config: ml_collections.ConfigDict, split_names: Collection[str]
) -> OpenedSet:
    """Opens splits of object_pairs, after drawing missing images.

    Args:
      dataset_config: config.dataset; path, instance, image_size, data_dir, held_out,
        group, max_pixels, min_crop_side, crop_context and the policies are used.
      split_names: some of train, validation, swapped and alone.

    Raises:
      InputError: a field or a split is wrong, the folder cannot be read
        (`folder.open_set`), fewer than two of its classes have enough objects that can
        be cut out, or the set cannot be written.
    """
    check_split_names(ObjectPairs.name, split_names, scale_pairs.SPLITS)
    opened = _open_folder(dataset_config)
    material = _find_material(opened, dataset_config)
    labels = material.cut_outs[0]
    if not set(split_names) <= set(material.splits):
        raise InputError(
            f"{ObjectPairs.name} cannot make the split swapped, which shows large "
            f"objects of a third class: only two classes of {dataset_config.path} have "
            "enough objects; set dataset.eval_splits to ('validation', 'alone')"
        )
    config = ObjectPairs.CONFIG(
        image_size=dataset_config.image_size,
        instance=dataset_config.instance,
        folder_name=pathlib.Path(dataset_config.path).absolute().name,
        material=material,
    )
    builder = prepare.prepared(ObjectPairs, config, dataset_config.data_dir)
    return OpenedSet(
        splits={split: [prepare.data_source(builder, split)] for split in split_names},
        class_names=opened.class_names,
        category_ids=opened.category_ids,
        convert=records.convert_scale_pairs,
        reference_lines={
            "chance": 1 / len(labels),
            "knows the two classes in the scene only": 0.5,
        },
        notices=(*opened.notices, *material.notices),
        counterfactual_of=scale_pairs.counterfactual_of,
    )


def _open_folder(dataset_config: ml_collections.ConfigDict) -> OpenedSet:
    """Opens the training and validation photographs of dataset.path."""
    config = ml_collections.ConfigDict(dataset_config)  # Also of a frozen one.
    config.train_split, config.eval_splits = _PARTS[0], _PARTS[1:]
    return folder.open_set(config, _PARTS)


def _find_material(
    opened: OpenedSet, dataset_config: ml_collections.ConfigDict
) -> Material:
    """Finds the objects of a folder that scenes can be made of.

    Raises:
      InputError: fewer than two classes have enough of them.
    """

    def convert(record: Record, index: int) -> Record:
        return opened.convert(record, index, dataset_config.bad_boxes)

    parts = [cast(FolderRecords, opened.splits[name][0]) for name in _PARTS]
    photographs = tuple(
        Photographs(
            part,
            convert,
            min_side=dataset_config.min_crop_side,
            context=dataset_config.crop_context,
            max_size=dataset_config.image_size,
        )
        for part in parts
    )
    found = [by_class(part.cut_outs) for part in photographs]
    labels, notices = _choose_labels(opened.class_names, found, dataset_config.path)
    cut_outs = tuple({label: part[label] for label in labels} for part in found)
    content = [
        (part.copy.path.name, part.indices.tolist(), part.policy, chosen)
        for part, chosen in zip(parts, cut_outs, strict=True)
    ]
    return Material(photographs, cut_outs, _hash(content), notices)


def _choose_labels(
    class_names: Sequence[str],
    found: Sequence[Mapping[int, Sequence[CutOut]]],
    path: str,
) -> tuple[list[int], tuple[str, ...]]:
    """Returns the labels with enough objects in both splits, and lines about them.

    Raises:
      InputError: there are fewer than two.
    """
    labels, kept, left_out = [], [], []
    for label, name in enumerate(class_names):
        train, validation = (len(part.get(label, ())) for part in found)
        text = f"{name} ({train:,} in training, {validation:,} in validation)"
        if min(train, validation) >= MIN_OBJECTS:
            labels.append(label)
            kept.append(text)
        else:
            left_out.append(text)
    if len(labels) < 2:
        raise InputError(
            f"{ObjectPairs.name} needs two classes with at least {MIN_OBJECTS} objects "
            f"to cut out, in training and in validation each; {path} has "
            f"{', '.join(kept + left_out)}: lower dataset.min_crop_side, or use "
            "another folder"
        )
    notices = [f"{ObjectPairs.name} cuts out objects of {', '.join(kept)}"]
    if left_out:
        notices.append(
            f"{ObjectPairs.name} leaves out classes with fewer than {MIN_OBJECTS} "
            f"objects to cut out: {', '.join(left_out)}"
        )
    return labels, tuple(notices)


def _hash(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:8]
