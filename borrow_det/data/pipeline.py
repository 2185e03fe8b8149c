"""Batches as a function of the step, by Grain's random access."""

import collections
import dataclasses
import gc
from collections.abc import Callable, Iterator

import cv2
import grain
import numpy as np
from absl import flags, logging

from borrow_det.data import sources
from borrow_det.data.images.decode import decode_image, to_canvas
from borrow_det.errors import InputError, check_choice

# Grain's threads and workers are the parallelism; OpenCV's own would fight them.
cv2.setNumThreads(0)

OVERFLOWS = ("error", "keep_largest", "keep_first")
_COUNTS = ("cut_boxes", "bad_boxes")


class Batches:
    """An iterator over batches that knows what was left out of them.

    Attributes:
      counts: boxes of the examples delivered so far (an image counts in every epoch
        anew): "cut_boxes" beyond dataset.max_boxes, "bad_boxes" clipped or dropped
        by dataset.bad_boxes while reading. Evaluation counts none.
    """

    def __init__(self, dataset: grain.MapDataset, dataset_config):
        self.counts = collections.Counter()
        threads = dataset_config.num_threads
        options = grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=2 * threads
        )
        iterator = dataset.to_iter_dataset(options)
        if dataset_config.num_workers:
            if not flags.FLAGS.is_parsed():
                # Grain's workers read absl flags, which only programs parse.
                flags.FLAGS.mark_as_parsed()
            workers = grain.MultiprocessingOptions(
                num_workers=dataset_config.num_workers, per_worker_buffer_size=2
            )
            iterator = iterator.mp_prefetch(workers)
        self._iterator = iter(iterator)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        batch = next(self._iterator)
        for name in batch.keys() & _COUNTS:
            before, count = self.counts[name], int(batch.pop(name).sum())
            self.counts[name] += count
            # At the first one and at each doubling: seldom, whatever the length.
            if count and self.counts[name].bit_length() > before.bit_length():
                logging.warning("%s so far: %d", name, self.counts[name])
        return batch

    def close(self) -> None:
        """Ends the threads and worker processes; no batch comes after it."""
        self._iterator.close()
        # An iterator at its end holds the last batch in a cycle of references, whose
        # shared memory would be reported as leaked when the program ends.
        gc.collect()


def train_dataset(
    split: sources.Split,
    config,
    process_index: int = 0,
    process_count: int = 1,
    make_row: Callable | None = None,
) -> grain.MapDataset:
    """Returns this process' share of every training batch: dataset[step].

    A function of (config.seed, step) alone. Order: split, seed, shuffle, repeat (each
    epoch shuffled anew), per-example map, batch, host slice.
    """
    check_split(split, config)
    batch_size = _share(config.batch_size, process_count, "batch_size")
    make_row = make_row or BoxesRow.of(split, config.dataset)
    # The slice comes after batches of a process' size, not before: step s of process
    # p is then rows [p B/P, (p+1) B/P) of one global batch, which is the same for any
    # number P of processes.
    return (
        grain.MapDataset.source(split)
        .seed(config.seed)
        .shuffle()
        .repeat()
        .map(make_row)
        # Nothing remains of an endless sequence; without the option Grain divides its
        # length as floats, which overflows for batches of one.
        .batch(batch_size, drop_remainder=True)[process_index::process_count]
    )


def train_batches(
    split: sources.Split,
    config,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    make_row: Callable | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the training batches of steps start_step, start_step + 1, ... for ever.

    Args:
      split: the training split.
      config: the run's; seed, batch_size and dataset are read.
      start_step: of the first batch; a resumed run goes on as if never stopped.
      process_index: of this process.
      process_count: of the run; each yields batch_size / process_count rows.
      make_row: from a record of the split to a row of a batch; detection's where
        none is given.

    Returns:
      A `Batches`; of detection each batch holds
        image: uint8 [B, H, W, 3] RGB in [0, 255]; (H, W) = dataset.canvas; the image
          lies top left, the rest is zero.
        image_size: int32 [B, 2], (height, width) of the image within the canvas.
        boxes: float32 [B, G, 4], [y_min, x_min, y_max, x_max] normalised to the image
          (not to the canvas); G = dataset.max_boxes.
        labels: int32 [B, G], 0-based.
        box_mask: bool [B, G], False on padding.
        ignore: bool [B, G], crowd or difficult.
        image_id: int64 [B].
        mask: bool [B], True; False on rows that pad an evaluation.

    Raises:
      InputError: for bad settings, and while iterating for an image that does not
        decode or, unless `check_training_data` has been called, holds too many boxes.
    """
    dataset = train_dataset(split, config, process_index, process_count, make_row)
    return Batches(dataset[start_step:], config.dataset)


def eval_batches(
    split: sources.Split,
    config,
    process_index: int = 0,
    process_count: int = 1,
    make_row: Callable | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields every image of a split once, in order, in batches of eval_batch_size.

    The last batch is filled up with rows whose mask is False. Every process yields
    the same number of batches, of the same shapes. A batch holds `image`,
    `image_size`, `image_id` and `mask` of `train_batches`, and no boxes: scoring has
    them all from `sources.ground_truth`, however many an image has. `make_row`, from
    a record to a row, is for batches that hold something else.
    """
    check_split(split, config)
    batch_size = _share(config.eval_batch_size, process_count, "eval_batch_size")
    num_batches = -(-len(split) // config.eval_batch_size)
    make_row = make_row or ImageRow(tuple(config.dataset.canvas), split.dataset)
    dataset = (
        grain.MapDataset.range(num_batches * config.eval_batch_size)
        .map(_EvalRow(split, make_row))
        .batch(batch_size)[process_index::process_count]
    )
    return Batches(dataset, config.dataset)


def check_training_data(split: sources.Split, config) -> dict[str, int]:
    """Refuses at the start what would end a run in the middle of an epoch.

    Reads the boxes of all images, and no pixels.

    Returns:
      How many boxes an epoch cuts and mends, as in `Batches.counts`.

    Raises:
      InputError: the split is empty, a setting cannot be, an image holds more boxes
        than dataset.max_boxes under the policy error, or dataset.bad_boxes refuses
        one.
    """
    check_split(split, config)
    row = BoxesRow.of(split, config.dataset)
    counts = dict.fromkeys(_COUNTS, 0)
    for index in range(len(split)):
        record = split[index]
        counts["cut_boxes"] += len(record["boxes"]) - len(row.choose(record))
        counts["bad_boxes"] += record["bad_boxes"]
    return counts


def check_split(split: sources.Split, config) -> None:
    """Refuses a split of no images, and settings of the loader that cannot be.

    Raises:
      InputError: names the split or the field.
    """
    if not len(split):
        raise InputError(
            f"{split.dataset} {split.name} holds no images: name another split"
        )
    for field in ("num_threads", "num_workers"):
        if config.dataset[field] < 0:
            raise InputError(f"dataset.{field} is negative: set 0 or more")


@dataclasses.dataclass(frozen=True)
class _EvalRow:
    """From an index to a row; beyond the end of the split to a padded row.

    Attributes:
      split: the split.
      make_row: from a record to a row.
    """

    split: sources.Split
    make_row: Callable[[dict], dict[str, np.ndarray]]

    def __call__(self, index: int) -> dict[str, np.ndarray]:
        if index < len(self.split):
            return self.make_row(self.split[index])
        row = {n: np.zeros_like(v) for n, v in self.make_row(self.split[0]).items()}
        # Not (0, 0): padded rows are resized like the others.
        row["image_size"][:] = row["image"].shape[:2]
        return row


@dataclasses.dataclass(frozen=True)
class ImageRow:
    """From a record to what every row holds.

    Attributes:
      canvas: (height, width) in pixels.
      set_name: for errors.
    """

    canvas: tuple[int, int]
    set_name: str

    def __call__(self, record: dict) -> dict[str, np.ndarray]:
        """`image`, `image_size`, `image_id` and `mask` of `train_batches`."""
        image = decode_image(record, f"{record['file_name']} of {self.set_name}")
        return image_fields(image, record["image_id"], self.canvas)


@dataclasses.dataclass(frozen=True)
class BoxesRow:
    """From a record to one row of a training batch of detection.

    Attributes:
      canvas: (height, width) in pixels.
      max_boxes: G of the batch.
      overflow: what happens to images with more.
      set_name: for errors.
    """

    canvas: tuple[int, int]
    max_boxes: int
    overflow: str
    set_name: str

    @classmethod
    def of(cls, split: sources.Split, dataset_config) -> "BoxesRow":
        """Rows of a split.

        Raises:
          InputError: dataset.overflow is unknown.
        """
        check_choice("dataset.overflow", dataset_config.overflow, OVERFLOWS)
        return cls(
            canvas=tuple(dataset_config.canvas),
            max_boxes=dataset_config.max_boxes,
            overflow=dataset_config.overflow,
            set_name=split.dataset,
        )

    def __call__(self, record: dict) -> dict[str, np.ndarray]:
        """A row of `train_batches`, and its counts."""
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

    def choose(self, record: dict) -> np.ndarray:
        """Indices of the boxes that go into the batch, in the record's order."""
        boxes = record["boxes"]
        if len(boxes) <= self.max_boxes:
            return np.arange(len(boxes))
        if self.overflow == "error":
            raise InputError(
                f"{record['file_name']} of {self.set_name} holds {len(boxes)} boxes, "
                f"more than dataset.max_boxes = {self.max_boxes}: raise that, or set "
                "dataset.overflow to keep_largest or keep_first"
            )
        if self.overflow == "keep_first":
            return np.arange(self.max_boxes)
        sides = boxes[:, 2:] - boxes[:, :2]
        largest = np.argsort(-sides[:, 0] * sides[:, 1], kind="stable")
        return np.sort(largest[: self.max_boxes])

    def _pad(self, values: np.ndarray) -> np.ndarray:
        padded = np.zeros((self.max_boxes, *values.shape[1:]), values.dtype)
        padded[: len(values)] = values
        return padded


def image_fields(
    image: np.ndarray, image_id: int, canvas: tuple[int, int]
) -> dict[str, np.ndarray]:
    """What all rows have in common, of a decoded image."""
    image, image_size = to_canvas(image, canvas)
    return {
        "image": image,
        "image_size": np.array(image_size, np.int32),
        "image_id": np.array(image_id, np.int64),
        "mask": np.ones((), np.bool_),
    }


def _share(batch_size: int, process_count: int, field: str) -> int:
    if batch_size <= 0 or batch_size % process_count:
        raise InputError(
            f"{field} is {batch_size}: set a positive multiple of the number of "
            f"processes, {process_count}"
        )
    return batch_size // process_count
