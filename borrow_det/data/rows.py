"""Rows of batches, made from records."""

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import ml_collections
import numpy as np

from borrow_det.data import sources
from borrow_det.data.datasets.opened import Record
from borrow_det.data.images.decode import decode_image, to_canvas
from borrow_det.errors import InputError, check_choice

OVERFLOWS = ("error", "keep_largest", "keep_first")

Row: TypeAlias = dict[str, np.ndarray]
MakeRow: TypeAlias = Callable[[Record], Row]


@dataclasses.dataclass(frozen=True)
class ImageRow:
    """Function from a record to the fields that every row has.

    Attributes:
      canvas: (height, width) in pixels.
      set_name: name of the dataset, for messages.
    """

    canvas: tuple[int, int]
    set_name: str

    def __call__(self, record: Record) -> Row:
        """Returns `image`, `image_size`, `image_id` and `mask` of `train_batches`."""
        image = decode_image(record, f"{record['file_name']} of {self.set_name}")
        return image_fields(image, record["image_id"], self.canvas)


@dataclasses.dataclass(frozen=True)
class BoxesRow:
    """Function from a record to a row of a training batch of detection.

    Attributes:
      canvas: (height, width) in pixels.
      max_boxes: G, number of boxes in a row.
      overflow: dataset.overflow, the policy for images with more boxes.
      set_name: name of the dataset, for messages.
    """

    canvas: tuple[int, int]
    max_boxes: int
    overflow: str
    set_name: str

    @classmethod
    def of(
        cls,
        split: sources.Split,
        dataset_config: ml_collections.ConfigDict,
        copies: int = 0,
    ) -> "BoxesRow":
        """Makes the function for a split.

        With dataset.max_boxes=0, rows have room for the boxes of every image.

        Args:
          split: the split.
          dataset_config: config.dataset.
          copies: number of boxes that augmentation adds to an image, for which there is
            room, too, with dataset.max_boxes=0.

        Raises:
          InputError: dataset.overflow is unknown.
        """
        check_choice("dataset.overflow", dataset_config.overflow, OVERFLOWS)
        max_boxes = dataset_config.max_boxes
        if not max_boxes:
            max_boxes = room_for(int(split.box_counts.max(initial=0)) + copies)
        return cls(
            canvas=tuple(dataset_config.canvas),
            max_boxes=max_boxes,
            overflow=dataset_config.overflow,
            set_name=split.dataset,
        )

    def __call__(self, record: Record) -> Row:
        """Returns a row of `train_batches`, and the numbers for `Batches.counts`."""
        chosen = self.choose(record)
        ignore = record["is_crowd"] | record["is_difficult"]
        return {
            **ImageRow(self.canvas, self.set_name)(record),
            "boxes": self._pad(record["boxes"][chosen]),
            "labels": self._pad(record["labels"][chosen]),
            "box_mask": np.arange(self.max_boxes) < len(chosen),
            "ignore": self._pad(ignore[chosen]),
            "cut_boxes": np.array(len(record["boxes"]) - len(chosen), np.int32),
            "bad_boxes": np.array(record["bad_boxes"], np.int32),
        }

    def choose(self, record: Record) -> np.ndarray:
        """Returns the indices of the boxes in the row, in ascending order.

        Raises:
          InputError: there are too many boxes, and `overflow` is "error".
        """
        boxes = record["boxes"]
        if len(boxes) <= self.max_boxes:
            return np.arange(len(boxes))
        if self.overflow == "error":
            raise self.too_many(record)
        if self.overflow == "keep_first":
            return np.arange(self.max_boxes)
        sides = boxes[:, 2:] - boxes[:, :2]
        largest = np.argsort(-sides[:, 0] * sides[:, 1], kind="stable")
        return np.sort(largest[: self.max_boxes])

    def too_many(self, record: Record, others: int = 0) -> InputError:
        """Returns the error of an image with more than `max_boxes` boxes.

        Args:
          record: the image.
          others: number of other such images; none of them has more boxes.
        """
        images = "image has" if others == 1 else "images have"
        also = f" ({others:,} other {images} too many, too)" if others else ""
        return InputError(
            f"{record['file_name']} of {self.set_name} has {len(record['boxes'])} "
            f"boxes, more than dataset.max_boxes = {self.max_boxes}{also}: increase "
            "that (0 makes room for all), or set dataset.overflow to keep_largest or "
            "keep_first"
        )

    def _pad(self, values: np.ndarray) -> np.ndarray:
        padded = np.zeros((self.max_boxes, *values.shape[1:]), values.dtype)
        padded[: len(values)] = values
        return padded


def room_for(boxes: int) -> int:
    """Returns a number of boxes, rounded up so that datasets share programs.

    The results are 8, 12, 16, 24, 32, 48, ...: powers of two, and a step between them.
    """
    room = 8
    while room < boxes:
        # Steps: 2^k, 1.5 * 2^k, 2^(k + 1).
        room += room // 2 if room & (room - 1) == 0 else room // 3
    return room


def image_fields(image: np.ndarray, image_id: int, canvas: tuple[int, int]) -> Row:
    """Returns the fields that every row has, from a decoded image.

    Args:
      image: uint8 RGB [H, W, 3].
      image_id: id of the image.
      canvas: (height, width) in pixels.
    """
    image, image_size = to_canvas(image, canvas)
    return {
        "image": image,
        "image_size": np.array(image_size, np.int32),
        "image_id": np.array(image_id, np.int64),
        "mask": np.ones((), np.bool_),
    }
