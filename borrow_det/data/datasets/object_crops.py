"""Classification sets made of the objects of a dataset, cropped from its images."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from borrow_det.data import rows, sources
from borrow_det.data.datasets import crop_windows
from borrow_det.data.datasets.opened import Record
from borrow_det.data.images import decode
from borrow_det.errors import InputError
from borrow_det.evaluation.coco_values import Id


@dataclasses.dataclass(frozen=True)
class ObjectCrops:
    """The objects of a split, with random access; images are cropped when decoded.

    Attributes:
      split: split with the objects.
      objects: int [n, 2], indices (image, box) of each object; None if each image is
        one object.
      context: dataset.crop_context, margin around a box relative to its sides.
      counts: numbers of "left_out" objects, and of "bad_boxes" as in `Batches.counts`.
    """

    split: sources.Split
    objects: np.ndarray | None
    context: float
    counts: dict[str, int]

    @property
    def dataset(self) -> str:
        """Name of the dataset, as in dataset.name."""
        return self.split.dataset

    @property
    def name(self) -> str:
        """Name of the split as asked for, slices included."""
        return self.split.name

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class index."""
        return self.split.class_names

    @property
    def category_ids(self) -> tuple[Id, ...]:
        """Category ids by class index."""
        return self.split.category_ids

    @property
    def notices(self) -> tuple[str, ...]:
        """Lines about the dataset for a run's start."""
        return self.split.notices

    @property
    def folds(self) -> Mapping[str, Any]:
        """Folds of the dataset's images; see `Split`."""
        return self.split.folds

    @property
    def reference_lines(self) -> Mapping[str, float]:
        """Empty: those of the dataset are of detection."""
        return {}

    def with_classes(
        self, names: tuple[str, ...], category_ids: tuple[Id, ...]
    ) -> "ObjectCrops":
        """Returns the objects with the labels of a trained run; see `Split`."""
        split = self.split.with_classes(names, category_ids)
        return dataclasses.replace(self, split=split)

    def __len__(self) -> int:
        """Returns the number of objects."""
        return len(self.split) if self.objects is None else len(self.objects)

    def __getitem__(self, index: int) -> Record:
        """Returns the record of one object.

        `image`, `file_name`, `height` and `width` are those of its image (see
        records.py), `image_id` is `index`, `label` is its class index, and `crop` is
        the part of the image that shows it: int [top, left, bottom, right] in pixels.
        """
        image, box = (index, 0) if self.objects is None else self.objects[index]
        record = self.split[int(image)]
        names = ("image", "file_name", "height", "width")
        return {
            **{name: record[name] for name in names},
            "image_id": index,
            "label": int(record["labels"][box]),
            "crop": crop_windows.window(record, record["boxes"][box], self.context),
        }


def load_splits(
    dataset_config: ml_collections.ConfigDict, names: Sequence[str]
) -> list[ObjectCrops]:
    """Opens the objects of splits; see `sources.load_splits`.

    This reads all boxes and decodes no image. The images of imagenet2012 are objects
    themselves; no box is read.

    Args:
      dataset_config: config.dataset.
      names: names of the splits.

    Raises:
      InputError: see `sources.load_splits`; or a split has no object that is large
        enough.
    """
    return [
        _objects_of(split, dataset_config)
        for split in sources.load_splits(dataset_config, names)
    ]


def _objects_of(
    split: sources.Split, dataset_config: ml_collections.ConfigDict
) -> ObjectCrops:
    context = dataset_config.crop_context
    if split.whole_images:
        return ObjectCrops(split, None, context, {})
    objects: list[tuple[int, int]] = []
    left_out = bad_boxes = 0
    annotations = split.without_images()
    for image in range(len(split)):
        record = annotations[image]
        usable = crop_windows.usable(record, dataset_config.min_crop_side)
        objects += [(image, int(box)) for box in np.flatnonzero(usable)]
        left_out += int((~usable).sum())
        bad_boxes += record["bad_boxes"]
    if not objects:
        raise InputError(
            f"{split.dataset} {split.name} has no object with sides of at least "
            f"dataset.min_crop_side = {dataset_config.min_crop_side} pixels: lower "
            "that, or use another split"
        )
    counts = {**split.counts, "left_out": left_out, "bad_boxes": bad_boxes}
    return ObjectCrops(split, np.array(objects), context, counts)


@dataclasses.dataclass(frozen=True)
class ObjectRow:
    """Function from an object's record to a row of a batch.

    Attributes:
      canvas: (height, width) in pixels.
      set_name: name of the dataset, for messages.
    """

    canvas: tuple[int, int]
    set_name: str

    def __call__(self, record: Record) -> dict[str, np.ndarray]:
        """Returns `rows.image_fields` of the crop, and `label` int32 []."""
        image = decode_crop(record, f"{record['file_name']} of {self.set_name}")
        return {
            **rows.image_fields(image, record["image_id"], self.canvas),
            "label": np.array(record["label"], np.int32),
        }


def decode_crop(record: Record, name: str) -> np.ndarray:
    """Decodes an object at its original size: uint8 RGB [height, width, 3]."""
    top, left, bottom, right = record["crop"]
    return decode.decode_image(record, name)[top:bottom, left:right]
