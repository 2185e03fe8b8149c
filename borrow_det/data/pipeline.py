"""Batches as a function of the step, with Grain's random access."""

import collections
import contextlib
import dataclasses
import gc
import signal
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from typing import Protocol

import cv2
import grain
import ml_collections
import numpy as np
from absl import flags, logging

from borrow_det.data import sources
from borrow_det.data.datasets.opened import Record
from borrow_det.data.reference_rows import ReferencesRow
from borrow_det.data.rows import BoxesRow, ImageRow, MakeRow, Row
from borrow_det.errors import InputError

# Grain's threads and workers decode in parallel; OpenCV's threads would slow them down.
cv2.setNumThreads(0)

_COUNTS = ("cut_boxes", "bad_boxes")


class Examples(Protocol):
    """Records with random access: a `sources.Split`, or `object_crops.ObjectCrops`."""

    @property
    def dataset(self) -> str:
        """Name of the dataset."""

    @property
    def name(self) -> str:
        """Name of the split."""

    def __len__(self) -> int:
        """Returns the number of records."""

    def __getitem__(self, index: int) -> Record:
        """Returns one record."""


class Batches:
    """An iterator over batches that counts the boxes missing in them.

    Attributes:
      counts: numbers of boxes in the examples so far, in each epoch again: "cut_boxes"
        in excess of dataset.max_boxes, and "bad_boxes" that dataset.bad_boxes clipped
        or dropped while reading. Evaluation does not count them.
    """

    def __init__(
        self, dataset: grain.MapDataset, dataset_config: ml_collections.ConfigDict
    ):
        self.counts: collections.Counter[str] = collections.Counter()
        threads = dataset_config.num_threads
        options = grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=2 * threads
        )
        iterator = dataset.to_iter_dataset(options)
        if dataset_config.num_workers:
            if not flags.FLAGS.is_parsed():
                # Grain's workers read absl flags, which a library does not parse.
                flags.FLAGS.mark_as_parsed()
            workers = grain.MultiprocessingOptions(
                num_workers=dataset_config.num_workers, per_worker_buffer_size=2
            )
            iterator = iterator.mp_prefetch(workers)
        # Whether worker processes, if any, have been started: the first batch does it.
        self._started = not dataset_config.num_workers
        self._iterator = iter(iterator)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Row:
        if self._started:
            batch = next(self._iterator)
        else:
            with _interrupts_blocked():
                batch = next(self._iterator)
            self._started = True
        for name in batch.keys() & _COUNTS:
            before, count = self.counts[name], int(batch.pop(name).sum())
            self.counts[name] += count
            # Logged for the first box and whenever the number doubles.
            if count and self.counts[name].bit_length() > before.bit_length():
                logging.warning("%s so far: %d", name, self.counts[name])
        return batch

    def close(self) -> None:
        """Stops the threads and worker processes; no batch follows."""
        self._iterator.close()
        # A cycle of references keeps the last batch of an exhausted iterator; its
        # shared memory would be reported as leaked at exit.
        gc.collect()


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Blocks SIGINT in this thread, and in the threads and processes it starts here.

    Ctrl-C also reaches the workers, which must outlive the step that is running.
    """
    # Otherwise the first process would start the tracker, which unblocks the signal.
    resource_tracker.ensure_running()
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


def train_dataset(
    split: Examples,
    config: ml_collections.ConfigDict,
    process_index: int = 0,
    process_count: int = 1,
    make_row: MakeRow | ReferencesRow | None = None,
) -> grain.MapDataset:
    """Returns the rows of this process in every training batch: dataset[step].

    They are a function of (config.seed, step). The order of operations is: split, seed,
    shuffle, repeat (every epoch is shuffled differently), conversion of examples,
    batch, slice of the process. See `train_batches` for the arguments.
    """
    check_split(split, config)
    batch_size = _share(config.batch_size, process_count, "batch_size")
    if make_row is None:
        assert isinstance(split, sources.Split), "other examples have other rows"
        make_row = BoxesRow.of(split, config.dataset)
    # Each draw is a function of the seed and the global index.
    order = grain.MapDataset.range(len(split)).seed(config.seed).shuffle().repeat()
    rows = order.random_map(_by_index(split, make_row).draw)
    # Batches have the size of a process, and the slice comes after them: in step s,
    # process p has rows [p B/P, (p+1) B/P) of a global batch that does not depend on
    # the number P of processes.
    # An endless sequence has no remainder. Without the option, Grain divides its length
    # in floats, which overflows for batches of one.
    return rows.batch(batch_size, drop_remainder=True)[process_index::process_count]


def train_batches(
    split: Examples,
    config: ml_collections.ConfigDict,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    make_row: MakeRow | ReferencesRow | None = None,
) -> Batches:
    """Yields the training batches of steps start_step, start_step + 1, ... without end.

    Args:
      split: training split.
      config: configuration of the run; seed, batch_size and dataset are used.
      start_step: step of the first batch; a resumed run gets the same batches as one
        without interruption.
      process_index: index of this process.
      process_count: number of processes; each gets batch_size / process_count rows.
      make_row: function from a record to a row of a batch, which may have references;
        None for rows of detection.

    Returns:
      An iterator. Batches of detection have
        image: uint8 [B, H, W, 3] RGB in [0, 255]; (H, W) = dataset.canvas. The image is
          at the top left, padded with zeros.
        image_size: int32 [B, 2], (height, width) of the image on the canvas.
        boxes: float32 [B, G, 4], [y_min, x_min, y_max, x_max] normalized to the image
          (not to the canvas); G = `BoxesRow.max_boxes`.
        labels: int32 [B, G], 0-based.
        box_mask: bool [B, G], false on padding.
        ignore: bool [B, G], true for crowds and difficult objects.
        image_id: int64 [B].
        mask: bool [B], true; false on rows that pad an evaluation.
      `ReferencesRow` has the fields of references.

    Raises:
      InputError: a field of the configuration is invalid; or, while iterating, an image
        does not decode or has too many boxes (`check_training_data` finds these
        earlier).
    """
    dataset = train_dataset(split, config, process_index, process_count, make_row)
    return Batches(dataset[start_step:], config.dataset)


def eval_batches(
    split: Examples,
    config: ml_collections.ConfigDict,
    process_index: int = 0,
    process_count: int = 1,
    make_row: MakeRow | ReferencesRow | None = None,
) -> Batches:
    """Yields every image of a split once, in order, in batches of eval_batch_size.

    Rows with a false mask fill up the last batch. All processes yield the same number
    of batches with the same shapes. By default, batches have `image`, `image_size`,
    `image_id` and `mask` of `train_batches`, and no boxes: metrics use those of
    `sources.ground_truth`, without a limit on their number. See `train_batches` for the
    arguments.

    Raises:
      InputError: see `train_batches`.
    """
    check_split(split, config)
    batch_size = _share(config.eval_batch_size, process_count, "eval_batch_size")
    num_batches = -(-len(split) // config.eval_batch_size)
    make_row = make_row or ImageRow(tuple(config.dataset.canvas), split.dataset)
    dataset = (
        grain.MapDataset.range(num_batches * config.eval_batch_size)
        .map(_EvalRow(len(split), _by_index(split, make_row)))
        .batch(batch_size)[process_index::process_count]
    )
    return Batches(dataset, config.dataset)


def check_training_data(
    split: sources.Split,
    config: ml_collections.ConfigDict,
    observe: Callable[[Record], None] = lambda record: None,
) -> dict[str, int]:
    """Checks the boxes of all images, so that a run does not fail in mid-epoch.

    This decodes no images.

    Args:
      split: training split.
      config: configuration of the run.
      observe: called with the record of each image, possibly without its image.

    Returns:
      The numbers of boxes of an epoch in `Batches.counts`.

    Raises:
      InputError: the split is empty, a field of the configuration is invalid, an image
        has more boxes than dataset.max_boxes with dataset.overflow "error", or a box is
        invalid with dataset.bad_boxes "error".
    """
    check_split(split, config)
    row = BoxesRow.of(split, config.dataset)
    counts = dict.fromkeys(_COUNTS, 0)
    crowded = 0
    most: Record | None = None
    annotations = split.without_images()
    for index in range(len(split)):
        record = annotations[index]
        observe(record)
        excess = max(len(record["boxes"]) - row.max_boxes, 0)
        counts["cut_boxes"] += excess
        counts["bad_boxes"] += record["bad_boxes"]
        crowded += excess > 0
        if most is None or len(record["boxes"]) > len(most["boxes"]):
            most = record
    if most is not None and crowded and row.overflow == "error":
        raise row.too_many(most, others=crowded - 1)
    return counts


def check_split(split: Examples, config: ml_collections.ConfigDict) -> None:
    """Checks that a split has images and that the fields of the loader are valid.

    Raises:
      InputError: names the split or the field.
    """
    if not len(split):
        raise InputError(
            f"{split.dataset} {split.name} has no images: use another split"
        )
    for field in ("num_threads", "num_workers"):
        if config.dataset[field] < 0:
            raise InputError(f"dataset.{field} is negative: set it to 0 or more")


class _Rows(Protocol):
    """Rows by the index of an image."""

    def __call__(self, index: int) -> Row:
        """Returns the row of an evaluation."""

    def draw(self, index: int, generator: np.random.Generator) -> Row:
        """Returns a row of training."""


@dataclasses.dataclass(frozen=True)
class _RecordRows:
    """Rows that depend on one record only; see `_Rows`.

    Attributes:
      split: the split.
      make_row: function from a record to a row.
    """

    split: Examples
    make_row: MakeRow

    def __call__(self, index: int) -> Row:
        return self.make_row(self.split[int(index)])

    def draw(self, index: int, generator: np.random.Generator) -> Row:
        del generator
        return self(index)


def _by_index(split: Examples, make_row: MakeRow | ReferencesRow) -> _Rows:
    """Returns the rows of a split by index."""
    if isinstance(make_row, ReferencesRow):
        return make_row
    return _RecordRows(split, make_row)


@dataclasses.dataclass(frozen=True)
class _EvalRow:
    """Function from an index to a row; returns padding beyond the end of the split.

    Attributes:
      images: number of images of the split.
      rows: their rows.
    """

    images: int
    rows: _Rows

    def __call__(self, index: int) -> Row:
        if index < self.images:
            return self.rows(index)
        row = {name: np.zeros_like(value) for name, value in self.rows(0).items()}
        # Padding is resized like images, which needs a size other than (0, 0).
        for name in row.keys() & {"image_size", "reference_size"}:
            row[name][:] = row["image"].shape[:2]
        return row


def _share(batch_size: int, process_count: int, field: str) -> int:
    if batch_size <= 0 or batch_size % process_count:
        raise InputError(
            f"{field} is {batch_size}: set it to a positive multiple of the number of "
            f"processes, {process_count}"
        )
    return batch_size // process_count
