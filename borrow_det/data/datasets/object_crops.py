"""The objects of a data set as a classification set: an image of each object's box."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from borrow_det.data import pipeline, sources
from borrow_det.data.images import decode
from borrow_det.errors import InputError


@dataclasses.dataclass(frozen=True)
class ObjectCrops:
    """One object a record, with random access; the images stay where they are.

    Attributes:
      split: the split that holds the objects.
      objects: int [n, 2], (image, box) of each; None where every image is an object.
      context: dataset.crop_context, shares of a box's sides to take along.
      counts: "left_out" objects, and "bad_boxes" as in `Batches.counts`.
    """

    split: sources.Split
    objects: np.ndarray | None
    context: float
    counts: dict[str, int]

    @property
    def dataset(self) -> str:
        """Name of the data set, as in dataset.name."""
        return self.split.dataset

    @property
    def name(self) -> str:
        """Name of the split as asked for, slices included."""
        return self.split.name

    @property
    def class_names(self) -> tuple[str, ...]:
        """By class index."""
        return self.split.class_names

    @property
    def category_ids(self) -> tuple[int, ...]:
        """By class index."""
        return self.split.category_ids

    @property
    def reference_lines(self) -> Mapping[str, float]:
        """None: the set's own are of detection."""
        return {}

    def __len__(self) -> int:
        """The number of objects."""
        return len(self.split if self.objects is None else self.objects)

    def __getitem__(self, index: int) -> dict:
        """The record of one object.

        `image`, `file_name`, `height` and `width` are those of the image it is in
        (data/datasets/records.py); `image_id` is `index`, `label` its class, and `crop` the
        part of the image that shows it: [top, left, bottom, right] in whole pixels.
        """
        image, box = (index, 0) if self.objects is None else self.objects[index]
        record = self.split[int(image)]
        names = ("image", "file_name", "height", "width")
        return {
            **{name: record[name] for name in names},
            "image_id": index,
            "label": int(record["labels"][box]),
            "crop": _crop(record, record["boxes"][box], self.context),
        }


def load_splits(dataset_config) -> list[ObjectCrops]:
    """Opens dataset.train_split, and each of dataset.eval_splits, as their objects.

    Every box is read, and no pixel; of a set of whole images (imagenet2012) nothing
    is, and its records are the set's own.

    Args:
      dataset_config: config.dataset.

    Raises:
      InputError: as `sources.load_splits`, or a split holds no image or no object that
        is large enough.
    """
    names = (dataset_config.train_split, *dataset_config.eval_splits)
    return [
        _of_split(split, dataset_config)
        for split in sources.load_splits(dataset_config, names)
    ]


def _of_split(split, dataset_config):
    context = dataset_config.crop_context
    if split.whole_images:
        return ObjectCrops(split, None, context, {})
    objects, left_out, bad_boxes = [], 0, 0
    for image in range(len(split)):
        record = split[image]
        usable = _usable(record, dataset_config.min_crop_side)
        objects += [(image, box) for box in np.flatnonzero(usable)]
        left_out += int((~usable).sum())
        bad_boxes += record["bad_boxes"]
    if not objects:
        raise InputError(
            f"{split.dataset} {split.name} holds no object whose sides measure "
            f"dataset.min_crop_side = {dataset_config.min_crop_side} pixels: lower "
            "that, or name another split"
        )
    counts = {**split.counts, "left_out": left_out, "bad_boxes": bad_boxes}
    return ObjectCrops(split, np.array(objects), context, counts)


def _usable(record, min_side):
    """Which objects are neither crowds nor difficult nor small: bool [n]."""
    boxes = record["boxes"]
    sides = (boxes[:, 2:] - boxes[:, :2]) * [record["height"], record["width"]]
    ignored = record["is_crowd"] | record["is_difficult"]
    # A hair less, so that the rounding of normalised boxes leaves none out.
    return (sides.min(axis=1, initial=np.inf) > min_side - 1e-3) & ~ignored


def _crop(record, box, context):
    size = np.array([record["height"], record["width"]])
    margin = context * (box[2:] - box[:2])
    low = np.floor((box[:2] - margin) * size + 1e-3)
    high = np.ceil((box[2:] + margin) * size - 1e-3)
    low = np.clip(low, 0, size - 1)
    high = np.clip(high, low + 1, size)  # At least a pixel.
    return np.concatenate([low, high]).astype(int)


@dataclasses.dataclass(frozen=True)
class ObjectRow:
    """From an object's record to a row of a batch.

    Attributes:
      canvas: (height, width) in pixels.
      set_name: for errors.
    """

    canvas: tuple[int, int]
    set_name: str

    def __call__(self, record: dict) -> dict[str, np.ndarray]:
        """`pipeline.image_fields` of the crop, and `label` int32 []."""
        image = decode_crop(record, f"{record['file_name']} of {self.set_name}")
        return {
            **pipeline.image_fields(image, record["image_id"], self.canvas),
            "label": np.array(record["label"], np.int32),
        }


def decode_crop(record: dict, name: str) -> np.ndarray:
    """uint8 RGB [height, width, 3] of an object at its original size."""
    top, left, bottom, right = record["crop"]
    return decode.decode_image(record, name)[top:bottom, left:right]
