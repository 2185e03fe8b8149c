"""The datasets that TensorFlow Datasets provides."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence

import ml_collections

from borrow_det.data.datasets import coco_classes, prepare, records
from borrow_det.data.datasets.opened import OpenedSet, Record, check_split_names


@dataclasses.dataclass(frozen=True)
class TfdsSet:
    """One dataset of TFDS.

    Attributes:
      splits: our split name to the (TFDS name, TFDS split) pairs that it consists of.
      convert: see `OpenedSet`.
      label: path to the ClassLabel in the features; () for sets of one class.
      class_names: names by class index, for sets without a ClassLabel.
      category_ids: ids by class index; () for 1, 2, ...
      whole_images: see `OpenedSet`.
      manual_files: files that the user has to download before the set is prepared.
    """

    splits: dict[str, tuple[tuple[str, str], ...]]
    convert: Callable[[Record, int, str], Record]
    label: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    whole_images: bool = False
    manual_files: tuple[str, ...] = ()


def _splits(tfds_name: str, *names: str) -> dict[str, tuple[tuple[str, str], ...]]:
    return {name: ((tfds_name, name),) for name in names}


# The test splits of coco and wider_face have no annotations and are left out.
SETS = {
    "voc": TfdsSet(
        splits={
            "train": tuple(
                (f"voc/{year}", split)
                for year in (2007, 2012)
                for split in ("train", "validation")
            ),
            "test": (("voc/2007", "test"),),
        },
        convert=records.convert_voc,
        label=("objects", "label"),
    ),
    "coco/2017": TfdsSet(
        splits=_splits("coco/2017", "train", "validation"),
        convert=records.convert_coco,
        label=("objects", "label"),
        category_ids=tuple(coco_classes.NAMES),
    ),
    "wider_face": TfdsSet(
        splits=_splits("wider_face", "train", "validation"),
        convert=records.convert_wider_face,
        class_names=("face",),
    ),
    "kitti": TfdsSet(
        splits=_splits("kitti", "train", "validation", "test"),
        convert=records.convert_kitti,
        label=("objects", "type"),
    ),
    # The test split of imagenet2012 has no labels and is left out.
    "imagenet2012": TfdsSet(
        splits=_splits("imagenet2012", "train", "validation"),
        convert=records.convert_imagenet2012,
        label=("label",),
        whole_images=True,
        manual_files=("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"),
    ),
}


def open_set(
    name: str, dataset_config: ml_collections.ConfigDict, split_names: Collection[str]
) -> OpenedSet:
    """Opens splits of one of `SETS`, after preparing the set if that was not done.

    Raises:
      InputError: a split is unknown, or the set cannot be prepared
        (`prepare.prepared_by_name`).
    """
    tfds_set = SETS[name]
    check_split_names(name, split_names, tfds_set.splits)
    splits: dict[str, list[Sequence[Record]]] = {}
    class_names = tfds_set.class_names
    for split in split_names:
        splits[split] = []
        for tfds_name, tfds_split in tfds_set.splits[split]:
            builder = prepare.prepared_by_name(
                tfds_name, dataset_config.data_dir, tfds_set.manual_files
            )
            splits[split].append(prepare.data_source(builder, tfds_split))
            if tfds_set.label:
                feature = functools.reduce(
                    lambda feature, key: feature[key],
                    tfds_set.label,
                    builder.info.features,
                )
                class_names = tuple(feature.names)
    return OpenedSet(
        splits=splits,
        class_names=class_names,
        category_ids=tfds_set.category_ids or tuple(range(1, len(class_names) + 1)),
        convert=tfds_set.convert,
        whole_images=tfds_set.whole_images,
    )
